use proptest::prelude::*;

use super::*;

type Requests = Vec<Vec<Vec<u8>>>;

/// What a connection makes of a stream that comes in these pieces: the requests, and why it ended.
fn read(stream: &[u8], pieces: &[usize], caps: &Caps, max: usize) -> (Requests, Option<ProtocolError>) {
    let (mut parser, mut buffer, mut requests) = (Parser::default(), Vec::new(), Vec::new());
    let mut rest = stream;
    let mut pieces = pieces.iter().copied().chain(std::iter::repeat(usize::MAX));
    loop {
        let (piece, later) = rest.split_at(pieces.next().unwrap_or(1).clamp(1, rest.len().max(1)).min(rest.len()));
        rest = later;
        buffer.extend_from_slice(piece);
        loop {
            let parsed = parser.parse(&mut buffer, caps, max);
            let whole = parser.len();
            for index in 0..whole {
                requests.push(parser.request(index).iter().map(|range| buffer[range.clone()].to_vec()).collect());
            }
            let done = parser.forget(whole);
            buffer.drain(..done);
            if let Err(error) = parsed {
                return (requests, Some(error));
            }
            if whole < max {
                break;
            }
        }
        if rest.is_empty() {
            return (requests, None);
        }
    }
}

fn written(requests: &Requests) -> Vec<u8> {
    let mut stream = Vec::new();
    for args in requests {
        stream.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
        for arg in args {
            stream.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            stream.extend_from_slice(arg);
            stream.extend_from_slice(b"\r\n");
        }
    }
    stream
}

fn all(stream: &str) -> (Requests, Option<ProtocolError>) {
    read(stream.as_bytes(), &[], &CAPS, 100)
}

fn refusal(stream: &str) -> String {
    all(stream).1.map(|error| error.to_string()).unwrap_or_default()
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_its_requests_are_the_same(
        different in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 0..12),
        times in prop::collection::vec(1_usize..4, 12),
        pieces in prop::collection::vec(1_usize..30, 0..60),
        max in 1_usize..5,
    ) {
        let in_a_row = different.into_iter().zip(times).flat_map(|(request, times)| vec![request; times]);
        let requests: Requests = in_a_row.collect();
        let stream = written(&requests);
        prop_assert_eq!(read(&stream, &pieces, &CAPS, max), (requests, None));
    }

    #[test]
    fn an_inline_request_reads_as_its_words_do(
        words in prop::collection::vec("[!#-&(-~]{1,9}", 1..6),
        pieces in prop::collection::vec(1_usize..9, 0..20),
    ) {
        prop_assume!(!words[0].starts_with('*'));
        let stream = format!("{}\r\n", words.join(" "));
        let expected: Requests = vec![words.iter().map(|word| word.clone().into_bytes()).collect()];
        prop_assert_eq!(read(stream.as_bytes(), &pieces, &CAPS, 9), (expected, None));
    }

    #[test]
    fn garbage_is_refused_or_read_the_same_however_it_is_cut_and_never_more_is_remembered_than_came(
        stream in prop::collection::vec(prop_oneof![
            Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b' '), Just(b'"'), b'0'..=b'9', any::<u8>()
        ], 0..200),
        pieces in prop::collection::vec(1_usize..20, 0..40),
    ) {
        let whole = read(&stream, &[], &CAPS, 1_000);
        prop_assert_eq!(&read(&stream, &pieces, &CAPS, 3), &whole);
        let args: usize = whole.0.iter().flatten().map(|arg| arg.len() + 1).sum();
        prop_assert!(args <= stream.len() + 1, "{} bytes of arguments out of {}", args, stream.len());
    }
}

#[test]
fn what_breaks_the_protocol_is_told_in_rediss_words_after_what_came_before_it() {
    assert_eq!(refusal("*3000000000\r\n"), "invalid multibulk length");
    assert_eq!(refusal("*x\r\n"), "invalid multibulk length");
    assert_eq!(refusal("*1\r\nfoo\r\n"), "expected '$', got 'f'");
    assert_eq!(refusal("*1\r\n$-10\r\n"), "invalid bulk length");
    assert_eq!(refusal("*1\r\n$2000000000\r\n"), "invalid bulk length");
    assert_eq!(refusal("*1\r\n$blabla\r\n"), "invalid bulk length");
    assert_eq!(refusal("*1\r\n$1\r\nabc"), "expected CRLF after a bulk string");
    assert_eq!(refusal("set \"a\r\n"), "unbalanced quotes in request");
    let (requests, error) = all("ping\r\n*1\r\n$4\r\nPING\r\n*1\r\n!");
    assert_eq!((requests.len(), error), (2, Some(ProtocolError::NoBulk(b'!'))));
}

#[test]
fn empty_requests_are_passed_over() {
    let (requests, error) = all("\r\n*0\r\n*-10\r\n   \r\nping\n");
    assert_eq!((requests, error), (vec![vec![b"ping".to_vec()]], None));
}

#[test]
fn what_is_too_long_is_refused_before_it_has_come() {
    assert_eq!(refusal(&"x".repeat(LINE_BYTES_MAX)), "too big inline request");
    assert_eq!(refusal(&format!("*{}", "1".repeat(40))), "invalid multibulk length");
    let arg = format!("${}\r\n{}\r\n", CAPS.arg_bytes, "x".repeat(CAPS.arg_bytes));
    let args = CAPS.request_bytes / CAPS.arg_bytes + 1;
    assert_eq!(refusal(&format!("*{args}\r\n{}", arg.repeat(args))), "too big request");
}

#[test]
fn who_has_not_authenticated_may_send_little() {
    let refusal = |stream: String| read(stream.as_bytes(), &[], &UNAUTHENTICATED, 9).1.map(|error| error.to_string());
    assert_eq!(refusal("*11\r\n".to_owned()).unwrap(), "unauthenticated multibulk length");
    assert_eq!(refusal("*1\r\n$16385\r\n".to_owned()).unwrap(), "unauthenticated bulk length");
    assert_eq!(refusal("*3\r\n$4\r\nAUTH\r\n$1\r\na\r\n$1\r\nb\r\n".to_owned()), None);
}

#[test]
fn a_request_that_comes_byte_by_byte_is_looked_at_once() {
    // Would each piece be looked at from the start, this would take minutes.
    let requests: Requests = vec![vec![b"x".to_vec(); 20_000]];
    let stream = written(&requests);
    assert_eq!(read(&stream, &vec![1; stream.len()], &CAPS, 9), (requests, None));
}

#[test]
fn a_request_that_comes_again_is_known_by_its_bytes_and_an_inline_one_is_not() {
    let again = |stream: &str| {
        let (mut parser, mut buffer) = (Parser::default(), stream.as_bytes().to_vec());
        parser.parse(&mut buffer, &CAPS, 9).unwrap();
        (0..parser.len()).map(|index| parser.again_from(index)).collect::<Vec<_>>()
    };
    let ping = "*1\r\n$4\r\nPING\r\n";
    assert_eq!(again(&ping.repeat(3)), [0, 2, 1]);
    assert_eq!(again(&format!("{ping}*1\r\n$4\r\nping\r\n{ping}{ping}*1\r\n$4\r\nPI")), [0, 0, 0, 1]);
    assert_eq!(again(&format!("{ping}*0\r\n{ping}")), [0, 0]);
    assert_eq!(again("ping\r\nping\r\n"), [0, 0]);
    // Its spaces resolved in place, the line looks like the head of an array, and like what comes next.
    let resolved = read(b" *!\r\n*!!\r\n", &[], &CAPS, 9);
    assert_eq!(resolved, (vec![vec![b"*!".to_vec()]], Some(ProtocolError::ArgCount)));
}
