//! Where an answer leads: requests that clients make next, with what they take from the last one. Tests follow them as clients do.

use utoipa::Modify;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, RefOr};

/// Request, what is done next, the request for that, and what its parameters are of the first one's.
type Link = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const PAGE: (&str, &str) = ("page", "$request.path.page");
const ID: (&str, &str) = ("id", "$request.path.id");
const USER: (&str, &str) = ("user", "$request.path.user");
const SESSION: (&str, &str) = ("Counter-Session", "$response.header.Counter-Session");

/// All of them. An operation is one request with one good answer, which has its links.
const LINKS: [Link; 22] = [
    ("updateCounter", "read", "getCounter", &[PAGE]),
    ("updateCounter", "readOwnWrite", "getCounter", &[PAGE, SESSION]),
    ("updateCounter", "reset", "resetCounter", &[PAGE]),
    ("resetCounter", "read", "getCounter", &[PAGE]),
    ("getCounter", "update", "updateCounter", &[PAGE]),
    ("updateCounters", "readAll", "getCounters", &[("page", "$request.body#/updates/0/page")]),
    ("updateCounters", "readOne", "getCounter", &[("page", "$response.body#/results/0/page")]),
    ("beatSession", "end", "endSession", &[PAGE, ID]),
    ("beatSession", "endByBeacon", "endSessionByBeacon", &[PAGE, ID]),
    ("beatSession", "read", "getCounter", &[PAGE]),
    ("endSession", "beginAnew", "beatSession", &[PAGE, ID]),
    ("endSessionByBeacon", "beginAnew", "beatSession", &[PAGE, ID]),
    ("modifyPage", "subscribe", "subscribe", &[PAGE]),
    ("subscribe", "read", "getSubscription", &[USER, PAGE]),
    ("subscribe", "list", "getSubscriptions", &[USER]),
    ("subscribe", "modify", "modifyPage", &[PAGE]),
    ("subscribe", "readUnread", "getUnread", &[USER]),
    ("subscribe", "markRead", "markRead", &[USER, PAGE]),
    ("subscribe", "end", "unsubscribe", &[USER, PAGE]),
    ("getUnread", "markRead", "markRead", &[USER, ("page", "$response.body#/pages/0/page")]),
    ("markRead", "readUnread", "getUnread", &[USER]),
    ("unsubscribe", "subscribeAnew", "subscribe", &[USER, PAGE]),
];

pub(super) struct Links;

impl Modify for Links {
    fn modify(&self, document: &mut OpenApi) {
        for item in document.paths.paths.values_mut() {
            for operation in [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten() {
                lead_on(operation);
            }
        }
    }
}

/// Gives the operation's good answer its links.
fn lead_on(Operation { operation_id, responses, .. }: &mut Operation) {
    let good = ["200", "204"].into_iter().find(|status| responses.responses.contains_key(*status));
    let Some(RefOr::T(answer)) = good.and_then(|status| responses.responses.get_mut(status)) else { return };
    for (_, name, next, parameters) in LINKS.iter().filter(|(from, ..)| operation_id.as_deref() == Some(*from)) {
        let link = parameters
            .iter()
            .fold(LinkBuilder::new().operation_id(*next), |link, (parameter, of)| link.parameter(*parameter, *of));
        answer.links.insert((*name).to_owned(), link.build().into());
    }
}
