//! Follows a file by reading it again and again. Editors write in pieces, or replace the file, so a text counts once it
//! has stood still for one look.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// No description of clusters is this long; a device or a log given by mistake is not read to its end.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What was found in the file, or why nothing was.
pub(super) type Found = Result<String, String>;

/// The file as it was seen at the last looks.
#[derive(Debug)]
pub(super) struct Follow {
    taken: Found,
    last: Found,
}

impl Follow {
    /// Follows on from the text that was taken over at the start.
    pub(super) fn from(text: String) -> Self {
        Self { taken: Ok(text.clone()), last: Ok(text) }
    }

    /// What has newly come to stand in the file; none while it is as it was, or still changing.
    pub(super) fn look(&mut self, found: Found) -> Option<Found> {
        let settled = found == self.last;
        self.last = found;
        if !settled || self.last == self.taken {
            return None;
        }
        self.taken.clone_from(&self.last);
        Some(self.last.clone())
    }
}

/// The file's text.
pub(super) fn read(path: &Path) -> Found {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        let length = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if u64::try_from(length).is_ok_and(|length| length > FILE_BYTES_MAX) {
            return Err(io::Error::other(format!("it is longer than {} MiB", FILE_BYTES_MAX >> 20)));
        }
        Ok(text)
    };
    read().map_err(|error| format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Found {
        Ok(text.to_owned())
    }

    #[test]
    fn a_text_counts_once_it_stands_still() {
        let mut follow = Follow::from("a".to_owned());
        assert_eq!(follow.look(text("a")), None);
        assert_eq!(follow.look(text("")), None);
        assert_eq!(follow.look(text("ab")), None);
        assert_eq!(follow.look(text("abc")), None);
        assert_eq!(follow.look(text("abc")), Some(text("abc")));
        assert_eq!(follow.look(text("abc")), None);
    }

    #[test]
    fn a_file_that_is_replaced_or_put_back_in_between_is_no_news() {
        let mut follow = Follow::from("a".to_owned());
        assert_eq!(follow.look(Err("gone".to_owned())), None);
        assert_eq!(follow.look(text("a")), None);
        assert_eq!(follow.look(text("a")), None);
    }

    #[test]
    fn a_file_that_is_gone_is_told_once_and_so_is_its_return() {
        let gone = || Err("gone".to_owned());
        let mut follow = Follow::from("a".to_owned());
        assert_eq!(follow.look(gone()), None);
        assert_eq!(follow.look(gone()), Some(gone()));
        assert_eq!(follow.look(gone()), None);
        assert_eq!(follow.look(text("a")), None);
        assert_eq!(follow.look(text("a")), Some(text("a")));
    }

    #[test]
    fn a_missing_file_and_an_endless_one_are_refused() {
        assert!(read(Path::new("/nowhere/at/all")).unwrap_err().starts_with("cannot be read: No such file"));
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err(), "cannot be read: it is longer than 4 MiB");
    }
}
