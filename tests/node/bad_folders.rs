//! Data folders that a node must not touch, and command lines that it does not understand.

use std::fs;
use std::path::PathBuf;

use counter_tests::http::Http;
use counter_tests::node::TestNode;
use hyper::{Method, StatusCode};
use tempfile::TempDir;

use crate::seen::files;

const PAGE: &str = "front-page";

/// A node that has counted to three and stopped.
async fn used() -> anyhow::Result<(TempDir, TestNode)> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    for _ in 0..3 {
        let answer = Http::default().send(Method::PUT, &format!("{}/{PAGE}/counter", node.http()), None).await?;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert!(node.stop().await?.success());
    Ok((folder, node))
}

/// The last line that a process said, which is the one that a person sees.
fn last_line(said: &str) -> &str {
    said.trim_end().lines().last().unwrap_or_default()
}

#[tokio::test]
async fn a_folder_that_is_not_ours_to_read_is_refused_and_left_as_it_was() -> anyhow::Result<()> {
    let (_folder, mut node) = used().await?;
    let data = node.data();
    let log = data.join("store/log/0000000001.log");
    let flipped = {
        let mut bytes = fs::read(&log)?;
        bytes[20] ^= 0x40;
        bytes
    };
    let cases: [(&str, PathBuf, Vec<u8>, &str); 5] = [
        (
            "a newer format",
            data.join("FORMAT"),
            b"distributed-counter data format 4\n".to_vec(),
            "has format 4, and this release knows formats up to 3: start a release at least as new as the one that wrote it",
        ),
        (
            "an older format",
            data.join("FORMAT"),
            b"distributed-counter data format 2\n".to_vec(),
            "has format 2, and this release reads format 3 only",
        ),
        (
            "no format",
            data.join("FORMAT"),
            b"hello\n".to_vec(),
            "it does not say which format the data folder has; nothing was changed",
        ),
        ("a flipped bit", log.clone(), flipped, "0000000001.log is corrupt: the log is damaged at byte 0"),
        ("a file cut off", log, b"COUNT".to_vec(), "0000000001.log is corrupt: the log is damaged at byte 0"),
    ];
    for (what, path, damaged, says) in cases {
        let whole = fs::read(&path)?;
        fs::write(&path, damaged)?;
        let before = files(&data)?;
        let (code, said) = node.refused().await?;
        assert_eq!(code, Some(65), "{what}: {said}");
        let line = last_line(&said);
        assert!(line.starts_with("counter-node: ") && line.contains(says), "{what}: {said}");
        assert!(files(&data)? == before, "{what}: the folder was changed");
        fs::write(&path, whole)?;
    }
    node.start_ready().await?;
    assert_eq!(Http::default().count(&node.http(), PAGE).await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_folder_of_someone_else_is_refused_and_left_as_it_was() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = TestNode::alone(folder.path(), &[])?;
    fs::create_dir_all(node.data())?;
    fs::write(node.data().join("thesis.txt"), "the only copy")?;
    let before = files(&node.data())?;
    let (code, said) = node.refused().await?;
    assert_eq!(code, Some(65), "{said}");
    assert!(last_line(&said).contains("it holds `thesis.txt` but no FORMAT file, so it is no data folder"), "{said}");
    assert_eq!(files(&node.data())?, before);
    Ok(())
}

#[tokio::test]
async fn a_folder_in_use_is_refused_and_its_user_counts_on() -> anyhow::Result<()> {
    let (folder, mut first) = used().await?;
    first.start_ready().await?;
    let second = TestNode::alone(&folder.path().join("second"), &[])?;
    std::os::unix::fs::symlink(first.data(), second.data())?;
    let before = files(&first.data())?;
    let (code, said) = second.refused().await?;
    assert_eq!(code, Some(75), "{said}");
    assert!(last_line(&said).ends_with("is in use by another process"), "{said}");
    assert!(files(&first.data())? == before, "the folder was changed");
    let counted = Http::default().send(Method::PUT, &format!("{}/{PAGE}/counter", first.http()), None).await?;
    assert_eq!(counted.json_of(StatusCode::OK)?["count"], 4);
    Ok(())
}

#[tokio::test]
async fn a_wrong_flag_is_told_in_one_line_and_makes_no_folder() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for (number, (flags, says)) in [
        (&["--bogus"][..], "--bogus"),
        (&["--fsync", "sometimes"], "EverySecond"),
        (&["--bind", "0.0.0.0", "--seeds", "a:1"], "--seeds needs --name"),
        (&["--log", "a=b=c"], "--log"),
    ]
    .into_iter()
    .enumerate()
    {
        let node = TestNode::alone(&folder.path().join(number.to_string()), flags)?;
        let (code, said) = node.refused().await?;
        assert_eq!(code, Some(64), "{flags:?}: {said}");
        assert!(said.starts_with("counter-node: ") && said.contains(says), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(!node.data().exists());
    }
    Ok(())
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named_with_the_systems_reason() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = TestNode::alone(folder.path(), &[])?;
    // A name longer than any file system takes.
    std::os::unix::fs::symlink("a".repeat(300), node.data())?;
    let (code, said) = node.refused().await?;
    assert_eq!(code, Some(1), "{said}");
    assert!(last_line(&said).starts_with("counter-node: cannot ") && said.contains("ile name too long"), "{said}");
    Ok(())
}
