//! Requests and replies as the `redis-protocol` crate reads them, which nobody here wrote.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use redis_protocol::{resp2, resp3};

use super::read_requests;
use super::reply::{Replies, Version};

/// A reply, as commands give it.
#[derive(Clone, Debug)]
enum Given {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Number(i64),
    Verbatim(String),
    Null,
    NullArray,
    Array(Vec<Given>),
    Map(BTreeMap<String, Given>),
    Set(BTreeSet<String>),
}

/// A reply, as clients see it. Maps and sets are in order, whatever the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Simple(Vec<u8>),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Verbatim(Vec<u8>),
    Null,
    Array(Vec<Seen>),
    Map(Vec<(Seen, Seen)>),
    Set(Vec<Seen>),
}

impl Given {
    fn write(&self, replies: &mut Replies) {
        match self {
            Self::Simple(text) => replies.simple(text),
            Self::Error(text) => replies.error(text),
            Self::Integer(number) => replies.integer(*number),
            Self::Bulk(bytes) => replies.bulk(bytes),
            Self::Number(number) => replies.number(*number),
            Self::Verbatim(text) => replies.verbatim(text),
            Self::Null => replies.null(),
            Self::NullArray => replies.null_array(),
            Self::Array(items) => {
                replies.array(items.len());
                items.iter().for_each(|item| item.write(replies));
            }
            Self::Map(pairs) => {
                replies.map(pairs.len());
                for (name, value) in pairs {
                    replies.text(name);
                    value.write(replies);
                }
            }
            Self::Set(items) => {
                replies.set(items.len());
                items.iter().for_each(|item| replies.text(item));
            }
        }
    }

    fn to_be_seen(&self, version: Version) -> Seen {
        let text = |text: &String| Seen::Bulk(text.clone().into_bytes());
        match self {
            Self::Simple(text) => Seen::Simple(text.clone().into_bytes()),
            Self::Error(text) => Seen::Error(text.replace(['\r', '\n'], " ")),
            Self::Integer(number) => Seen::Integer(*number),
            Self::Bulk(bytes) => Seen::Bulk(bytes.clone()),
            Self::Number(number) => text(&number.to_string()),
            Self::Verbatim(verbatim) if version == Version::Resp3 => Seen::Verbatim(verbatim.clone().into_bytes()),
            Self::Verbatim(verbatim) => text(verbatim),
            Self::Null | Self::NullArray => Seen::Null,
            Self::Array(items) => Seen::Array(items.iter().map(|item| item.to_be_seen(version)).collect()),
            Self::Map(pairs) if version == Version::Resp3 => {
                Seen::Map(pairs.iter().map(|(name, value)| (text(name), value.to_be_seen(version))).collect())
            }
            Self::Map(pairs) => {
                Seen::Array(pairs.iter().flat_map(|(name, value)| [text(name), value.to_be_seen(version)]).collect())
            }
            Self::Set(items) if version == Version::Resp3 => Seen::Set(items.iter().map(text).collect()),
            Self::Set(items) => Seen::Array(items.iter().map(text).collect()),
        }
    }
}

fn in_resp2(frame: resp2::types::OwnedFrame) -> Seen {
    use resp2::types::OwnedFrame;
    match frame {
        OwnedFrame::SimpleString(text) => Seen::Simple(text),
        OwnedFrame::Error(text) => Seen::Error(text),
        OwnedFrame::Integer(number) => Seen::Integer(number),
        OwnedFrame::BulkString(bytes) => Seen::Bulk(bytes),
        OwnedFrame::Array(items) => Seen::Array(items.into_iter().map(in_resp2).collect()),
        OwnedFrame::Null => Seen::Null,
    }
}

fn in_resp3(frame: resp3::types::OwnedFrame) -> Seen {
    use resp3::types::OwnedFrame;
    match frame {
        OwnedFrame::SimpleString { data, .. } => Seen::Simple(data),
        OwnedFrame::SimpleError { data, .. } => Seen::Error(data),
        OwnedFrame::Number { data, .. } => Seen::Integer(data),
        OwnedFrame::BlobString { data, .. } => Seen::Bulk(data),
        OwnedFrame::VerbatimString { data, .. } => Seen::Verbatim(data),
        OwnedFrame::Null => Seen::Null,
        OwnedFrame::Array { data, .. } => Seen::Array(data.into_iter().map(in_resp3).collect()),
        OwnedFrame::Map { data, .. } => {
            let mut pairs: Vec<(Seen, Seen)> = data.into_iter().map(|(name, value)| (in_resp3(name), in_resp3(value))).collect();
            pairs.sort();
            Seen::Map(pairs)
        }
        OwnedFrame::Set { data, .. } => {
            let mut items: Vec<Seen> = data.into_iter().map(in_resp3).collect();
            items.sort();
            Seen::Set(items)
        }
        other => panic!("no reply of ours: {other:?}"),
    }
}

/// The first reply in the bytes and how long it is; none while it has not come whole.
fn first(bytes: &[u8], version: Version) -> Option<(Seen, usize)> {
    match version {
        Version::Resp2 => resp2::decode::decode(bytes).unwrap().map(|(frame, length)| (in_resp2(frame), length)),
        Version::Resp3 => resp3::decode::complete::decode(bytes).unwrap().map(|(frame, length)| (in_resp3(frame), length)),
    }
}

fn given() -> impl Strategy<Value = Given> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        "[ -~]{0,20}".prop_map(Given::Simple),
        "[A-Z]{1,9} [ -~\r\n]{0,30}".prop_map(Given::Error),
        any::<i64>().prop_map(Given::Integer),
        bytes().prop_map(Given::Bulk),
        any::<i64>().prop_map(Given::Number),
        ".{0,30}".prop_map(Given::Verbatim),
        Just(Given::Null),
        Just(Given::NullArray),
    ];
    leaf.prop_recursive(3, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Given::Array),
            proptest::collection::btree_map("[ -~]{0,9}", inner, 0..6).prop_map(Given::Map),
            proptest::collection::btree_set("[ -~]{0,9}", 0..6).prop_map(Given::Set),
        ]
    })
}

fn commands() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let argument = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        "(INCR|incrby|GET|token|\\*3\r\n\\$1\r\n|-?[0-9]{1,19})".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(proptest::collection::vec(argument, 1..7), 0..8)
}

proptest! {
    #[test]
    fn replies_are_read_as_they_were_meant(given in proptest::collection::vec(given(), 1..6)) {
        for version in [Version::Resp2, Version::Resp3] {
            let mut replies = Replies { version, ..Replies::new() };
            given.iter().for_each(|given| given.write(&mut replies));
            let mut rest = &replies.bytes[..];
            for given in &given {
                let (seen, length) = first(rest, version).unwrap();
                prop_assert_eq!(seen, given.to_be_seen(version));
                prop_assert_eq!(first(&rest[..length - 1], version), None, "it ends earlier");
                rest = &rest[length..];
            }
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn requests_that_others_write_and_read_are_read_alike(commands in commands(), cut: prop::sample::Index, piece in 1..50_usize) {
        use resp2::types::OwnedFrame;
        let mut stream = Vec::new();
        for command in &commands {
            let frame = OwnedFrame::Array(command.iter().cloned().map(OwnedFrame::BulkString).collect());
            let mut bytes = vec![0; 64 + command.iter().map(|argument| argument.len() + 16).sum::<usize>()];
            let length = resp2::encode::encode(&mut bytes, &frame, false).unwrap();
            stream.extend_from_slice(&bytes[..length]);
        }
        prop_assert_eq!(read_requests(&stream, piece), (commands, None));
        // However far it has come.
        let come = &stream[..cut.index(stream.len() + 1)];
        let (mut theirs, mut at) = (Vec::new(), 0);
        while let Some((frame, length)) = (at < come.len()).then(|| resp2::decode::decode(&come[at..]).unwrap()).flatten() {
            let OwnedFrame::Array(arguments) = frame else { panic!("{frame:?}") };
            theirs.push(arguments.into_iter().map(|argument| match argument {
                OwnedFrame::BulkString(bytes) => bytes,
                other => panic!("{other:?}"),
            }).collect::<Vec<_>>());
            at += length;
        }
        prop_assert_eq!(read_requests(come, piece), (theirs, None));
    }
}
