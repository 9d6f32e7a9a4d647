//! What the documents and examples tell people to do can be done.

use std::collections::BTreeSet;

use counter_tests::programs::repository;
use operator::controller::build::{SHARD_LABEL, TEMPLATE_ANNOTATION, TEMPLATE_HASH_ANNOTATION, TRIGGER_ANNOTATION};
use operator::controller::validate::{ACCEPT_LOSS_ANNOTATION, APPLY_UPDATE_ANNOTATION};
use operator::crd::GROUP;

use crate::flags::{is_variable, of_the_node, of_the_operator};

const DOCUMENTS: [&str; 10] = [
    "README.md",
    "docs/consistency.md",
    "docs/exactly-once.md",
    "docs/live.md",
    "docs/unread.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/redis.md",
    "docs/security.md",
    "docs/widget.md",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files in a folder of the repository whose names end so.
fn files(folder: &str, end: &str) -> Vec<String> {
    let names = std::fs::read_dir(repository(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| format!("{folder}/{}", name.to_string_lossy())).filter(|path| path.ends_with(end)).collect()
}

/// All code in a Markdown text: lines of blocks, and spans.
fn code(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            found.push(line.trim().trim_start_matches("$ "));
        } else {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

#[test]
fn every_document_is_looked_at() {
    // The benchmarks are written by `make bench`, and name no flags.
    for document in files("docs", ".md").into_iter().filter(|document| document != "docs/benchmarks.md") {
        assert!(DOCUMENTS.contains(&document.as_str()), "{document} is in no list of this test");
    }
}

#[test]
fn every_flag_and_variable_that_a_document_names_exists() {
    let (node, operator) = (of_the_node(), of_the_operator());
    let mut named = 0;
    for document in DOCUMENTS {
        let text = read(document);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for variable in words.filter(|word| is_variable(word)) {
            assert!(node.variables.contains(variable) || operator.variables.contains(variable), "{document}: {variable}");
            named += 1;
        }
        for command in code(&text) {
            let program = command.split_whitespace().next().unwrap_or_default();
            let known: BTreeSet<&String> = match program {
                "counter-node" => node.flags.iter().collect(),
                "operator" => operator.flags.iter().collect(),
                flag if flag.starts_with("--") => node.flags.union(&operator.flags).collect(),
                _ => continue,
            };
            for flag in command.split(|c: char| c.is_whitespace() || "=,".contains(c)).filter(|word| word.starts_with("--")) {
                assert!(known.contains(&flag.to_owned()), "{document}: `{command}` has {flag}");
                named += 1;
            }
        }
    }
    assert!(named > 0, "the documents name no flag at all: this test does not find them any more");
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile.lines().filter_map(|line| line.split_once(": ").map(|(target, _)| target)).collect();
    let mut named = BTreeSet::new();
    for document in DOCUMENTS {
        let text = read(document);
        for command in code(&text) {
            let mut words = command.split_whitespace();
            if words.next() == Some("make") {
                for target in words.take_while(|word| *word != "#") {
                    assert!(targets.contains(target), "{document}: `{command}`");
                    named.insert(target.to_owned());
                }
            }
        }
    }
    for command in ["run", "test", "help", "image"] {
        assert!(named.contains(command), "the README does not name `make {command}`");
    }
}

#[test]
fn every_file_that_a_document_names_exists() {
    let mut named = 0;
    for document in DOCUMENTS {
        let text = read(document);
        let words = code(&text).into_iter().flat_map(str::split_whitespace).map(|word| word.trim_end_matches([',', ';', '.']));
        for path in words.filter(|word| ["docs/", "examples/", "charts/", "tests/"].iter().any(|root| word.starts_with(root))) {
            assert!(repository(path).exists(), "{document}: {path}");
            named += 1;
        }
    }
    assert!(named > 3);
}

#[test]
fn every_label_and_annotation_of_ours_that_a_text_names_is_one_that_the_operator_uses() {
    let known = [
        SHARD_LABEL,
        TEMPLATE_HASH_ANNOTATION,
        TEMPLATE_ANNOTATION,
        TRIGGER_ANNOTATION,
        APPLY_UPDATE_ANNOTATION,
        ACCEPT_LOSS_ANNOTATION,
    ];
    let mut texts: Vec<String> = DOCUMENTS.iter().map(|&document| document.to_owned()).collect();
    texts.extend(files("examples", ".yaml"));
    texts.extend(files("charts/distributed-counter/templates", ""));
    for path in texts {
        let text = read(&path);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "./-".contains(c)));
        for word in words.filter_map(|word| word.strip_prefix(GROUP)).filter_map(|rest| rest.strip_prefix('/')) {
            let name = format!("{GROUP}/{}", word.trim_end_matches('.'));
            assert!(known.contains(&name.as_str()) || name == format!("{GROUP}/v1alpha1"), "{path}: {name}");
        }
    }
}

#[test]
fn every_example_is_accepted_as_the_api_server_would() {
    let examples = files("examples", ".yaml");
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        operator::local::check(&read(&example)).unwrap_or_else(|problems| panic!("{example}: {problems:#?}"));
    }
    let wrong = read("examples/page-views.yaml").replace("replicas: 3", "replica: 3");
    let problems = operator::local::check(&wrong).unwrap_err();
    assert_eq!(problems, ["document 1 (page-views): spec.replica: unknown field, did you mean replicas?"]);
}

/// What a `curl` of a document asks for.
fn asked(command: &str, base: &str) -> hyper::Request<bytes::Bytes> {
    let quoted =
        |flag: &str| command.split_once(&format!("{flag} '")).map(|(_, rest)| rest.split('\'').next().unwrap_or_default());
    let word = |flag: &str| command.split_once(flag).map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default());
    let path = command.split_once("http://…").map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default()).unwrap();
    let mut request = hyper::Request::builder().method(word("-X ").unwrap_or("GET")).uri(format!("{base}{path}"));
    if let Some((name, value)) = quoted("-H").and_then(|header| header.split_once(": ")) {
        request = request.header(name, value);
    }
    request.body(bytes::Bytes::copy_from_slice(quoted("-d").unwrap_or_default().as_bytes())).unwrap()
}

#[tokio::test]
async fn the_readmes_first_requests_are_answered_as_it_shows() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = counter_tests::node::TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    let (readme, http) = (read("README.md"), counter_tests::http::Http::default());
    let lines = code(&readme);
    let mut tried = 0;
    for pair in lines.windows(2).filter(|pair| pair[0].starts_with("curl ") && pair[1].starts_with('{')) {
        let answer = http.request(asked(pair[0], &node.http())).await?;
        let (answer, shown) = (answer.json_of(hyper::StatusCode::OK)?, serde_json::from_str::<serde_json::Value>(pair[1])?);
        let fields = |of: &serde_json::Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(&answer), fields(&shown), "{}", pair[0]);
        assert_eq!(answer["count"], 1, "{}", pair[0]);
        tried += 1;
    }
    assert_eq!(tried, 2);
    Ok(())
}
