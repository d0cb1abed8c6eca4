//! What is said of files, in words.

use std::fmt::{self, Display, Formatter};

use super::{Damage, Finding, Judgement, Kept, Summary};

impl Display for Finding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.judgement)
    }
}

impl Display for Judgement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Judgement::Sound(what) => write!(f, "sound: {what}"),
            Judgement::Torn { offset, bytes } => write!(
                f,
                "torn at offset {offset}: a batch of at most {bytes} bytes that a crash left \
                 incomplete, and that was never acknowledged; the next start cuts it off"
            ),
            Judgement::Note(what) => write!(f, "note: {what}"),
            Judgement::Corrupt(damage) => write!(f, "corrupt{damage}"),
        }
    }
}

/// From where on, which entries, why, and what is left: continues the word "corrupt".
impl Display for Damage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        if let Some(first) = self.first_index {
            match self.last_index {
                Some(last) => write!(f, " (entries {first} to {last})")?,
                None => write!(f, " (entries {first} to unknown)")?,
            }
        }
        write!(f, ": {}", self.reason)?;
        match &self.kept {
            Some(kept) => write!(f, "; {}", KeptInWords(kept)),
            None if self.first_index.is_some() => write!(f, "; nothing before it would be kept"),
            None => Ok(()),
        }
    }
}

struct KeptInWords<'a>(&'a Kept);

impl Display for KeptInWords<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Kept { path, offset, sequence, first_index, last_index, hard_state } = self.0;
        if first_index <= last_index {
            write!(f, "entries {first_index} to {last_index} before it are whole")?;
        } else {
            write!(f, "no entry before it is there, and the log is whole")?;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (term, commit) = (hard_state.term, hard_state.commit);
        write!(f, " (term {term}, commit {commit}), through frame {sequence}")?;
        write!(f, " that ends at offset {offset} of {name}")
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let files = |n: u64| if n == 1 { "1 file".to_owned() } else { format!("{n} files") };
        match (self.n_corrupt, self.is_torn) {
            (0, false) => write!(f, "sound: {}", files(self.n_sound)),
            (0, true) => write!(f, "sound: {}, with a torn end", files(self.n_sound)),
            (1, _) => write!(f, "corrupt: 1 fault, {} sound", files(self.n_sound)),
            (n, _) => write!(f, "corrupt: {n} faults, {} sound", files(self.n_sound)),
        }
    }
}
