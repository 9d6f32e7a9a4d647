//! A log of `strace`, read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::wait::until;

/// All by which a process can change files, and how it answers clients.
const CALLS: &str = "open,openat,openat2,creat,close,close_range,dup,dup2,dup3,fcntl,lseek,write,writev,pwrite64,pwritev,pwritev2,\
    fsync,fdatasync,sync_file_range,truncate,ftruncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,\
    link,linkat,symlink,symlinkat,copy_file_range,sendfile,splice,mmap,io_uring_setup,sendto,sendmsg";
/// The most bytes that one call may write: a segment of the log that is folded, and then some.
const BYTES_MAX: &str = "67108864";

/// What a process has called, in the order in which it can be known to have.
#[derive(Debug, Default)]
pub struct Trace {
    pub calls: Vec<Call>,
    pub events: Vec<Event>,
}

/// One system call.
#[derive(Debug)]
pub struct Call {
    /// The name of the thread that made it.
    pub thread: String,
    pub name: String,
    pub arguments: Vec<Argument>,
}

/// What was handed over, as far as it matters: bytes, or what strace makes of anything else.
#[derive(Debug, PartialEq, Eq)]
pub enum Argument {
    Bytes(Vec<u8>),
    Word(String),
}

/// A call's begin or its end. Whatever one thread did after the end of a call, comes after it in the trace.
#[derive(Debug)]
pub struct Event {
    pub at_us: u64,
    /// Which of the calls.
    pub call: usize,
    /// `None` when it begins; what it gave when it ends.
    pub gave: Option<i64>,
}

/// The program and its flags before the program that is to be traced, which keeps the process id that this is started with.
///
/// # Errors
/// When there is no strace.
pub fn command(log: &Path) -> anyhow::Result<Vec<String>> {
    Command::new("strace")
        .arg("--version")
        .output()
        .context("cannot run strace, without which no power failure is tested; install the package strace")?;
    let log = log.to_str().context("the log's path is no text")?;
    // The tracer is nobody's parent, each thread is named, and calls that are not asked for cost nothing.
    let flags = ["strace", "-D", "-f", "-Y", "-ttt", "-xx", "-v", "-s", BYTES_MAX, "--seccomp-bpf", "-e"];
    Ok(flags
        .into_iter()
        .map(str::to_owned)
        .chain([format!("trace={CALLS}"), "-o".to_owned(), log.to_owned(), "--".to_owned()])
        .collect())
}

/// Reads the log of process `pid`, which has ended or is about to.
///
/// # Errors
/// When the log does not end, or has something in it that is not understood.
pub async fn read_ended(log: &Path, pid: u32) -> anyhow::Result<Trace> {
    let ends = |line: &str| line.starts_with(&format!("{pid}<")) && line.contains(" +++ ") && line.ends_with(" +++");
    until("strace has seen the process's end", async || {
        let end = read_from(log, bytes(log)?.saturating_sub(1 << 16))?;
        anyhow::ensure!(end.ends_with('\n') && end.lines().any(ends), "it runs");
        Ok(())
    })
    .await?;
    Trace::parse(&read_from(log, 0)?)
}

/// How long the log is.
///
/// # Errors
/// When there is none.
pub fn bytes(log: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(log).with_context(|| log.display().to_string())?.len())
}

/// How often the log of a process that may still run says, behind so many bytes, that a thread has begun a call.
///
/// # Errors
/// When there is no log.
pub fn times_called(log: &Path, from: u64, thread: &str, call: &str) -> anyhow::Result<usize> {
    let thread: String = thread.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
    let (thread, call) = (format!("<{thread}> "), format!(" {call}("));
    Ok(read_from(log, from)?.lines().filter(|line| line.contains(&thread) && line.contains(&call)).count())
}

fn read_from(log: &Path, from: u64) -> anyhow::Result<String> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(from))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

impl Trace {
    /// Reads a log.
    ///
    /// # Errors
    /// When a line is not understood.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let (mut trace, mut under_way) = (Self::default(), HashMap::new());
        for line in text.lines() {
            let told = || line.get(..line.len().min(300)).unwrap_or_default().to_owned();
            trace.take(line, &mut under_way).with_context(told)?;
        }
        Ok(trace)
    }

    /// `PID<thread> seconds name(arguments) = what it gave`, which may come in two parts.
    fn take<'a>(&mut self, line: &'a str, under_way: &mut HashMap<&'a str, usize>) -> anyhow::Result<()> {
        let (pid, rest) = line.split_once('<').context("no thread")?;
        let (thread, rest) = rest.split_once("> ").context("no thread's name")?;
        let (seconds, rest) = rest.trim_start().split_once(' ').context("no time")?;
        let (seconds, micros) = seconds.split_once('.').context("no fraction of the time")?;
        let at_us = seconds.parse::<u64>()? * 1_000_000 + micros.parse::<u64>()?;
        if rest.starts_with("+++") || rest.starts_with("---") {
            return Ok(());
        }
        if rest.starts_with("<... ") {
            let call = under_way.remove(pid).context("the end of a call without its begin")?;
            self.events.extend(gave(rest)?.map(|gave| Event { at_us, call, gave: Some(gave) }));
            return Ok(());
        }
        let (name, rest) = rest.split_once('(').context("no call")?;
        let (arguments, ends) = match rest.strip_suffix(" <unfinished ...>") {
            Some(arguments) => (arguments, None),
            None => (&rest[..rest.rfind(") ").context("no end of the arguments")?], Some(gave(rest)?)),
        };
        let arguments = arguments.trim_end_matches(" <unfinished ...>");
        // Of threads that wake each other by such writes, and of nothing else.
        if name == "write"
            && arguments.ends_with("\"\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\", 8")
            && matches!(ends, Some(Some(8)))
        {
            return Ok(());
        }
        let call = self.calls.len();
        let arguments = arguments.split(", ").map(argument).collect::<anyhow::Result<_>>()?;
        self.calls.push(Call { thread: text(thread)?, name: name.to_owned(), arguments });
        self.events.push(Event { at_us, call, gave: None });
        match ends {
            None => drop(under_way.insert(pid, call)),
            Some(gave) => self.events.extend(gave.map(|gave| Event { at_us, call, gave: Some(gave) })),
        }
        Ok(())
    }
}

/// What is behind the last `) = `: nothing is known when the process ended in the call.
fn gave(rest: &str) -> anyhow::Result<Option<i64>> {
    let (_, gave) = rest.rsplit_once(") ").and_then(|_| rest.rsplit_once("= ")).context("no result")?;
    let word = gave.split([' ', '<']).next().unwrap_or_default();
    Ok(match (word, word.strip_prefix("0x")) {
        ("?", _) => None,
        (_, Some(hex)) => Some(i64::from_str_radix(hex, 16)?),
        _ => Some(word.parse().context("the result is no number")?),
    })
}

/// Strings come as `"\x2f\x64"`, by themselves or in an array of parts.
fn argument(text: &str) -> anyhow::Result<Argument> {
    let Some((_, quoted)) = text.split_once('"') else { return Ok(Argument::Word(text.to_owned())) };
    let (quoted, rest) = quoted.split_once('"').context("a string does not end")?;
    if rest.starts_with("...") {
        bail!("a string is cut off");
    }
    Ok(Argument::Bytes(decode(quoted)?))
}

fn text(quoted: &str) -> anyhow::Result<String> {
    Ok(String::from_utf8(decode(quoted)?)?)
}

fn decode(quoted: &str) -> anyhow::Result<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => bail!("a string has something else in it than hexadecimal bytes"),
    };
    let (parts, rest) = quoted.as_bytes().as_chunks::<4>();
    anyhow::ensure!(rest.is_empty(), "a string is cut off");
    parts
        .iter()
        .map(|[backslash, x, high, low]| {
            anyhow::ensure!((*backslash, *x) == (b'\\', b'x'), "a string has something else in it than hexadecimal bytes");
            Ok(digit(*high)? << 4 | digit(*low)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_whole_and_in_two_parts() -> anyhow::Result<()> {
        let trace = Trace::parse(concat!(
            "7<\\x61> 1.000002 pwrite64(5, \"\\x00\\xff\", 2, 9 <unfinished ...>\n",
            "8<\\x62> 1.000003 openat(AT_FDCWD, \"\\x2f\", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)\n",
            "7<\\x61> 1.000004 <... pwrite64 resumed>) = 2\n",
            "8<\\x62> 1.000005 fsync(4) = ?\n",
            "8<\\x62> 1.000006 +++ killed by SIGKILL +++\n",
        ))?;
        let moments: Vec<_> = trace.events.iter().map(|event| (event.at_us, event.call, event.gave)).collect();
        let expected =
            [(1_000_002, 0, None), (1_000_003, 1, None), (1_000_003, 1, Some(-1)), (1_000_004, 0, Some(2)), (1_000_005, 2, None)];
        assert_eq!(moments, expected);
        let word = |text: &str| Argument::Word(text.to_owned());
        assert_eq!(trace.calls[0].arguments, [word("5"), Argument::Bytes(vec![0, 255]), word("2"), word("9")]);
        assert_eq!((trace.calls[1].thread.as_str(), trace.calls[2].name.as_str()), ("b", "fsync"));
        Ok(())
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for line in
            ["7<\\x61> 1.000002 write(5, \"\\x00\"..., 2) = 2", "7<\\x61> 1.000002 <... write resumed>) = 2", "strace: no"]
        {
            assert!(Trace::parse(line).is_err(), "{line}");
        }
    }
}
