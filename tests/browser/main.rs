//! The browser's side in a real Chromium: people come and go by opening and closing tabs, and what they see is read off the
//! document as they see it. Real nodes behind it, never a stand-in.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stderr, reason = "tests tell what they measured")]

mod chromium;
mod crashes;
mod dashboard;
mod events;
mod fallbacks;
mod files;
mod gate;
mod pictures;
mod tab;
mod unread;
mod viewers;
mod widget;
