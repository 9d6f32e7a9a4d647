#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::fmt::Write as _;

use super::*;

fn hex(text: &str) -> String {
    text.bytes().fold(String::from("\""), |text, byte| format!("{text}\\x{byte:02x}")) + "\""
}

/// A log of these lines, in which `'text'` stands for strings as strace writes them.
fn trace(lines: &[&str]) -> Trace {
    let mut log = String::new();
    for line in lines {
        let (thread, call) = line.split_once(' ').unwrap();
        let parts: Vec<_> =
            call.split('\'').enumerate().map(|(at, part)| if at % 2 == 1 { hex(part) } else { part.to_owned() }).collect();
        writeln!(log, "{thread}<\\x61> 1.000000 {}", parts.concat()).unwrap();
    }
    Trace::parse(&log).unwrap()
}

fn after(trace: &Trace) -> anyhow::Result<Disk<'_>> {
    Disk::after(trace.events.len(), trace, Path::new("/d"), &Image::empty())
}

/// What is left when nothing survives that was not forced, as text.
fn forced(lines: &[&str]) -> Vec<(String, String)> {
    let trace = trace(lines);
    let Image::Folder(entries) = after(&trace).unwrap().forced().unwrap() else { unreachable!() };
    let text = |image| match image {
        Image::File(bytes) => String::from_utf8(bytes).unwrap(),
        Image::Folder(entries) => format!("{:?}", entries.keys()),
    };
    entries.into_iter().map(|(name, image)| (name, text(image))).collect()
}

const MADE: [&str; 3] =
    ["1 openat(AT_FDCWD, '/d/a', O_WRONLY|O_CREAT, 0666) = 5", "1 openat(AT_FDCWD, '/d', O_RDONLY) = 6", "1 fsync(6) = 0"];

fn made(further: &[&str]) -> Vec<(String, String)> {
    forced(&[&MADE[..], further].concat())
}

fn file(name: &str, text: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), text.to_owned())]
}

#[test]
fn bytes_are_on_the_disk_when_a_sync_that_began_after_the_write_has_ended() {
    assert_eq!(made(&["1 write(5, 'one', 3) = 3", "1 fdatasync(5) = 0", "1 write(5, 'two', 3) = 3"]), file("a", "one"));
    assert_eq!(made(&["1 write(5, 'one', 3) = 3", "1 write(5, 'two', 3) = 3", "1 fsync(5) = 0"]), file("a", "onetwo"));
    assert_eq!(made(&["1 pwrite64(5, 'abc', 3, 1) = 2", "1 fsync(5) = 0"]), file("a", "\0ab"));
    assert_eq!(
        made(&["1 write(5, 'one', 3) = 3", "1 fdatasync(5) = -1 EIO (x)", "1 fdatasync(5 <unfinished ...>"]),
        file("a", "")
    );
    let between = ["1 fdatasync(5 <unfinished ...>", "2 write(5, 'one', 3) = 3", "1 <... fdatasync resumed>) = 0"];
    assert_eq!(made(&between), file("a", ""), "it may have looked at the file before the write");
    let of_another = ["1 openat(AT_FDCWD, '/d/b', O_RDWR|O_CREAT, 0666) = 7", "1 write(5, 'one', 3) = 3", "1 fsync(7) = 0"];
    assert_eq!(made(&of_another), file("a", ""));
}

#[test]
fn names_are_on_the_disk_when_their_folder_was_forced() {
    assert_eq!(forced(&MADE[..2]), []);
    assert_eq!(forced(&[MADE[0], "1 write(5, 'one', 3) = 3", "1 fsync(5) = 0"]), []);
    assert_eq!(made(&["1 rename('/d/a', '/d/b') = 0"]), file("a", ""));
    assert_eq!(made(&["1 renameat(AT_FDCWD, '/d/a', 6, 'b') = 0", "1 fsync(6) = 0"]), file("b", ""));
    assert_eq!(made(&["1 unlink('/d/a') = 0"]), file("a", ""));
    assert_eq!(made(&["1 unlinkat(6, 'a', 0) = 0", "1 fsync(6) = 0"]), []);
    let folder = ["1 mkdir('/d/f', 0777) = 0", "1 fsync(6) = 0", "1 openat(AT_FDCWD, '/d/f/x', O_WRONLY|O_CREAT, 0666) = 7"];
    assert_eq!(made(&folder)[1].1, "[]");
    let force = ["1 openat(AT_FDCWD, '/d/f', O_RDONLY) = 8", "1 fsync(8) = 0"];
    assert_eq!(made(&[&folder[..], &force].concat())[1].1, "[\"x\"]");
}

#[test]
fn a_descriptor_is_another_file_s_after_it_was_closed() {
    let lines =
        ["1 close(5) = 0", "1 write(5, 'socket', 6) = 6", "1 openat(AT_FDCWD, '/d/a', O_RDWR|O_TRUNC) = 5", "1 fsync(5) = 0"];
    assert_eq!(made(&lines), file("a", ""));
}

#[test]
fn what_was_not_forced_survives_in_any_sectors() {
    let text = "x".repeat(1024);
    let write = format!("1 write(5, '{text}', 1024) = 1024");
    let trace = trace(&[&MADE[..], &[write.as_str()]].concat());
    let disk = after(&trace).unwrap();
    let mut left = Vec::new();
    for seed in 0..100 {
        let Image::Folder(entries) = disk.lose_power(&mut StdRng::seed_from_u64(seed)).unwrap() else { unreachable!() };
        let Image::File(bytes) = &entries["a"] else { unreachable!() };
        left.push((bytes.len(), bytes.first().copied()));
    }
    for expected in [(0, None), (512, Some(b'x')), (1024, Some(0)), (1024, Some(b'x'))] {
        assert!(left.contains(&expected), "{expected:?}");
    }
    assert_eq!(disk.seen().unwrap().difference(&Image::Folder([("a".to_owned(), Image::File(text.into_bytes()))].into())), None);
}

#[test]
fn what_is_not_known_is_refused_where_it_concerns_the_folder() {
    for line in [
        "1 ftruncate(5, 0) = 0",
        "1 fallocate(5, 0, 0, 10) = 0",
        "1 pwritev2(5, [{iov_base='x', iov_len=1}], 1, 0, RWF_DSYNC) = 1",
        "1 fcntl(5, F_DUPFD_CLOEXEC, 3) = 7",
        "1 link('/d/a', '/e') = 0",
        "1 rename('/d/a', '/e') = 0",
        "1 openat(AT_FDCWD, '/d/a', O_WRONLY|O_DSYNC) = 7",
        "1 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 5, 0) = 0x7f",
        "1 io_uring_setup(8, {}) = 7",
    ] {
        let trace = trace(&[&MADE[..], &[line]].concat());
        assert!(after(&trace).is_err(), "{line}");
    }
    let elsewhere =
        ["1 ftruncate(9, 0) = 0", "1 link('/e', '/f') = 0", "1 openat(AT_FDCWD, '/e', O_WRONLY|O_APPEND|O_CREAT) = 7"];
    assert_eq!(made(&elsewhere), file("a", ""));
}
