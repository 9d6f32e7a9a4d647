//! The flags and variables that the two programs know, from their own help.

use std::collections::BTreeSet;
use std::ffi::OsString;

use counter_node::args::{Command as NodeCommand, Config, UsageError as NodeUsage};
use operator::args::{Args, UsageError};

/// What one program can be told.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// With their dashes.
    pub(crate) flags: BTreeSet<String>,
    pub(crate) variables: BTreeSet<String>,
}

impl Known {
    fn of(help: &str) -> Self {
        let words = || help.split(|c: char| c.is_whitespace() || ",[]=`();:".contains(c));
        let flags = words().filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect();
        let variables = words().filter(|word| is_variable(word)).map(str::to_owned).collect();
        Self { flags, variables }
    }

    fn and(mut self, other: Self) -> Self {
        self.flags.extend(other.flags);
        self.variables.extend(other.variables);
        self
    }
}

/// Whether a word is the name of a variable of ours.
pub(crate) fn is_variable(word: &str) -> bool {
    let rest = word.strip_prefix("COUNTER_").or_else(|| word.strip_prefix("OPERATOR_"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
}

/// What counter-node can be told.
pub(crate) fn of_the_node() -> Known {
    match NodeCommand::read(argv("counter-node", ["--help"])) {
        Err(NodeUsage::Information(help)) => Known::of(&help),
        other => panic!("expected the help, got {other:?}"),
    }
}

/// What the operator can be told.
pub(crate) fn of_the_operator() -> Known {
    let of = |command: &str| match Args::read(argv("operator", [command, "--help"])) {
        Err(UsageError::Information(help)) => Known::of(&help),
        other => panic!("expected the help of {command}, got {other:?}"),
    };
    of("run").and(of("local")).and(of("crd"))
}

/// What a node makes of its arguments.
pub(crate) fn node_config<'a>(args: impl IntoIterator<Item = &'a str>) -> Config {
    let args: Vec<&str> = args.into_iter().collect();
    match NodeCommand::read(argv("counter-node", args.iter().copied())) {
        Ok(NodeCommand::Run(config)) => *config,
        other => panic!("counter-node does not take {args:?}: {other:?}"),
    }
}

/// A command line.
pub(crate) fn argv<'a>(program: &'a str, args: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    std::iter::once(program).chain(args).map(OsString::from).collect()
}

#[test]
fn every_flag_has_a_variable_of_its_name() {
    for (prefix, known) in [("COUNTER_", of_the_node()), ("OPERATOR_", of_the_operator())] {
        let expected: BTreeSet<String> = known
            .flags
            .iter()
            .filter(|flag| !["--help", "--version"].contains(&flag.as_str()))
            .map(|flag| format!("{prefix}{}", flag[2..].replace('-', "_").to_uppercase()))
            .collect();
        assert!(expected.len() > 10, "{known:?}");
        assert_eq!(known.variables, expected);
    }
}
