//! The kinds of error that an answer may carry, each with the one status it comes with: the
//! whole table, and what the node's own refusals are called in it.

use hyper::StatusCode;
use raftnode::Refusal;
use raftnode::membership::ChangeRefusalKind;

macro_rules! kinds {
    ($($kind:ident = $status:literal $name:literal, $meaning:literal;)*) => {
        /// What went wrong, as the `error` of a JSON body names it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = $meaning] $kind,)*
        }

        impl Kind {
            /// Every one, in the order of their statuses.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// Its name in a body.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// The status that it comes with, always.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Kind::$kind => $status,)* }
            }
        }
    };
}

kinds! {
    Malformed = 400 "malformed", "The request is not understood, and will not be.";
    OtherIncarnation = 403 "other_incarnation", "The id is pinned to another data directory.";
    NotFound = 404 "not_found", "There is no such key, member or path.";
    MethodNotAllowed = 405 "method_not_allowed", "The path is known, the method is not.";
    PendingChange = 409 "pending_change", "Another membership change is under way.";
    UnsafeChange = 409 "unsafe_change", "The change would leave no live quorum.";
    Conflict = 409 "conflict", "What is asked for contradicts the membership.";
    Removed = 410 "removed", "The id was removed, for good.";
    Compacted = 410 "compacted", "The changes asked for are no longer kept.";
    CasMismatch = 412 "cas_mismatch", "The key has another mod index than the request says.";
    TooLarge = 413 "too_large", "The body, a value or the command is over its limit.";
    KeyReused = 422 "key_reused", "The idempotency key came with another request before.";
    NoLeader = 503 "no_leader", "Nobody was known to lead.";
    Overloaded = 503 "overloaded", "Too much is waiting already, or the disk is nearly full.";
    Refused = 503 "refused", "It is not done and never will be; asking again is safe.";
    Unavailable = 503 "unavailable", "It could not be answered in time.";
    ShuttingDown = 503 "shutting_down", "This member is stopping.";
    Unknown = 504 "unknown", "It may or may not be applied, now or later.";
}

impl Kind {
    pub(super) fn status_code(self) -> StatusCode {
        StatusCode::from_u16(self.status()).expect("the table holds statuses")
    }
}

impl From<Refusal> for Kind {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoLeader => Kind::NoLeader,
            Refusal::Overloaded | Refusal::LowDisk { .. } => Kind::Overloaded,
            Refusal::Superseded | Refusal::NotLeader => Kind::Refused,
            Refusal::ShuttingDown => Kind::ShuttingDown,
            Refusal::Unavailable => Kind::Unavailable,
            Refusal::TooLarge => Kind::TooLarge,
            Refusal::MinIndex | Refusal::Empty => Kind::Malformed,
        }
    }
}

impl From<ChangeRefusalKind> for Kind {
    fn from(kind: ChangeRefusalKind) -> Self {
        match kind {
            ChangeRefusalKind::Invalid => Kind::Malformed,
            ChangeRefusalKind::OtherIncarnation => Kind::OtherIncarnation,
            ChangeRefusalKind::NotFound => Kind::NotFound,
            ChangeRefusalKind::Pending => Kind::PendingChange,
            ChangeRefusalKind::Unsafe => Kind::UnsafeChange,
            ChangeRefusalKind::Conflict => Kind::Conflict,
            ChangeRefusalKind::Removed => Kind::Removed,
            ChangeRefusalKind::NoLeader => Kind::NoLeader,
            ChangeRefusalKind::Overloaded => Kind::Overloaded,
            ChangeRefusalKind::ShuttingDown => Kind::ShuttingDown,
            ChangeRefusalKind::Failed => Kind::Unavailable,
        }
    }
}
