//! Virtual shards: which pages are counted under several sub-keys, spread over slots, and how many.
//!
//! A count that was published once may have been written to by any node ever since, so it is never forgotten: updates go
//! to the first pattern's `count` sub-keys, reads sum the sub-keys up to the highest `everCount` of *all* patterns that
//! match, whatever their order is and whichever of them have been taken back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::counter::KEY_BYTES_MAX;

/// The most patterns of a cluster, those included that were taken back: each costs every look-up of a page a comparison.
pub const PATTERNS_MAX: usize = 64;
/// The most sub-keys of a page.
pub const VIRTUAL_SHARDS_MAX: u16 = 256;

/// Pages that are counted under several sub-keys. JSON, camelCase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualShards {
    /// A glob on the whole page: `*` is any text, `?` any one character, everything else itself.
    pub pages: String,
    /// Over how many sub-keys new updates are spread; 0 for a pattern that was taken back, whose pages are updated under
    /// their own key.
    pub count: u16,
    /// The highest count ever published: so many sub-keys are read.
    pub ever_count: u16,
}

/// What is wrong with a layout's virtual shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VirtualShardsError {
    #[error(
        "a layout has at most {PATTERNS_MAX} patterns of virtual shards, those that were taken back included; this one has {0}"
    )]
    PatternCount(usize),
    #[error("a pattern of virtual shards has 1 to {KEY_BYTES_MAX} bytes, `{0}` has not")]
    Pattern(String),
    #[error("the virtual shards of `{0}` stand in the layout twice")]
    Twice(String),
    #[error("the highest count of the virtual shards of `{pages}` is between 1 and {VIRTUAL_SHARDS_MAX}, not {ever_count}")]
    EverCount { pages: String, ever_count: u16 },
    #[error("the virtual shards of `{pages}` number {count}, which is more than {ever_count}, the highest count ever published")]
    Count { pages: String, count: u16, ever_count: u16 },
}

/// Over how many sub-keys one page is spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// For updates: 0 for the page's own key, else as many sub-keys.
    pub count: u16,
    /// For reads: the page's own key and as many sub-keys.
    pub ever_count: u16,
}

impl Spread {
    /// What a layout's patterns say of a page.
    #[must_use]
    pub fn of(patterns: &[VirtualShards], page: &[u8]) -> Self {
        let mut spread = Self::default();
        for own in patterns.iter().filter(|own| matches(own.pages.as_bytes(), page)) {
            if spread.count == 0 {
                spread.count = own.count;
            }
            spread.ever_count = spread.ever_count.max(own.ever_count);
        }
        spread
    }
}

pub(super) fn validate(patterns: &[VirtualShards]) -> Result<(), VirtualShardsError> {
    if patterns.len() > PATTERNS_MAX {
        return Err(VirtualShardsError::PatternCount(patterns.len()));
    }
    let mut seen = BTreeSet::new();
    for own in patterns {
        own.validate()?;
        if !seen.insert(&own.pages) {
            return Err(VirtualShardsError::Twice(own.pages.clone()));
        }
    }
    Ok(())
}

impl VirtualShards {
    fn validate(&self) -> Result<(), VirtualShardsError> {
        let (pages, count, ever_count) = (self.pages.clone(), self.count, self.ever_count);
        if pages.is_empty() || pages.len() > KEY_BYTES_MAX {
            return Err(VirtualShardsError::Pattern(pages));
        }
        if ever_count == 0 || ever_count > VIRTUAL_SHARDS_MAX {
            return Err(VirtualShardsError::EverCount { pages, ever_count });
        }
        if count > ever_count {
            return Err(VirtualShardsError::Count { pages, count, ever_count });
        }
        Ok(())
    }
}

/// Whether a glob matches a whole page. Never takes longer than the product of both lengths: on a mismatch only the last
/// `*` takes one character more.
#[must_use]
pub fn matches(pattern: &[u8], page: &[u8]) -> bool {
    let (mut pattern, mut page) = (pattern, page);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), page.split_first()) {
            (Some((b'*', rest)), _) => {
                retry = Some((rest, page));
                pattern = rest;
            }
            (Some((b'?', rest)), Some(_)) => {
                pattern = rest;
                page = after_one(page);
            }
            (Some((wanted, rest)), Some((found, left))) if wanted == found => (pattern, page) = (rest, left),
            (None, None) => return true,
            (Some(_) | None, _) => match retry {
                Some((after, from)) if !from.is_empty() => {
                    let from = after_one(from);
                    retry = Some((after, from));
                    (pattern, page) = (after, from);
                }
                Some(_) | None => return false,
            },
        }
    }
}

/// What follows the first character, which may take several bytes.
fn after_one(text: &[u8]) -> &[u8] {
    let rest = text.get(1..).unwrap_or_default();
    let continued = rest.iter().take_while(|byte| (**byte & 0b1100_0000) == 0b1000_0000).count();
    rest.get(continued..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(pages: &str, count: u16, ever_count: u16) -> VirtualShards {
        VirtualShards { pages: pages.to_owned(), count, ever_count }
    }

    #[test]
    fn a_glob_is_about_the_whole_page() {
        for (pattern, fits, fits_not) in [
            ("front-page", vec!["front-page"], vec!["front-page-2", "a-front-page", "Front-page", ""]),
            ("front-page*", vec!["front-page", "front-page/de"], vec!["front-pag", "my-front-page"]),
            ("*", vec!["", "anything"], vec![]),
            ("*/news/*", vec!["de/news/1", "/news/"], vec!["news/1", "de/news"]),
            ("a*b*c", vec!["abc", "a-b-b-c", "abcbc"], vec!["acb", "ab", "abca"]),
            ("caf?", vec!["cafe", "café"], vec!["caf", "cafés"]),
            ("?*", vec!["a", "é", "abc"], vec![""]),
        ] {
            fits.iter().for_each(|page| assert!(matches(pattern.as_bytes(), page.as_bytes()), "{pattern} {page}"));
            fits_not.iter().for_each(|page| assert!(!matches(pattern.as_bytes(), page.as_bytes()), "{pattern} {page}"));
        }
    }

    /// As the words say it, however long that takes.
    fn slowly(pattern: &[u8], page: &[u8]) -> bool {
        match (pattern.split_first(), page.split_first()) {
            (None, _) => page.is_empty(),
            (Some((b'*', rest)), _) => slowly(rest, page) || (!page.is_empty() && slowly(pattern, &page[1..])),
            (Some((b'?', rest)), Some((_, left))) => slowly(rest, left),
            (Some((wanted, rest)), Some((found, left))) => wanted == found && slowly(rest, left),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn a_glob_matches_what_its_definition_does(pattern in "[ab*?]{0,8}", page in "[ab]{0,10}") {
            prop_assert_eq!(matches(pattern.as_bytes(), page.as_bytes()), slowly(pattern.as_bytes(), page.as_bytes()));
        }
    }

    #[test]
    fn updates_follow_the_first_pattern_in_force_and_reads_all_that_ever_were() {
        let patterns = [of("front*", 0, 40), of("*page", 4, 8), of("*", 2, 16)];
        assert_eq!(Spread::of(&patterns, b"front-page"), Spread { count: 4, ever_count: 40 });
        assert_eq!(Spread::of(&patterns, b"front"), Spread { count: 2, ever_count: 40 });
        assert_eq!(Spread::of(&patterns, b"other"), Spread { count: 2, ever_count: 16 });
        assert_eq!(Spread::of(&patterns[..2], b"other"), Spread::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refusal = |patterns: &[VirtualShards]| validate(patterns).unwrap_err().to_string();
        assert_eq!(validate(&[of("a*", 0, 1), of("b", 256, 256)]), Ok(()));
        assert_eq!(
            refusal(&[of("a", 3, 2)]),
            "the virtual shards of `a` number 3, which is more than 2, the highest count ever published"
        );
        assert_eq!(refusal(&[of("a", 0, 0)]), "the highest count of the virtual shards of `a` is between 1 and 256, not 0");
        assert_eq!(refusal(&[of("a", 1, 257)]), "the highest count of the virtual shards of `a` is between 1 and 256, not 257");
        assert_eq!(refusal(&[of("a", 1, 1), of("a", 2, 2)]), "the virtual shards of `a` stand in the layout twice");
        assert!(refusal(&[of("", 1, 1)]).contains("1 to 512 bytes"));
        assert!(refusal(&[of(&"a".repeat(513), 1, 1)]).contains("1 to 512 bytes"));
        let many: Vec<VirtualShards> = (0..65).map(|number| of(&number.to_string(), 1, 1)).collect();
        assert!(refusal(&many).contains("this one has 65"));
    }
}
