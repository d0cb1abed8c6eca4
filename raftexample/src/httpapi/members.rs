//! Membership calls: who is a member, and changes of that.

use std::time::Instant;

use bytes::BytesMut;
use hyper::StatusCode;
use raftnode::membership::{self, Change, ChangeOptions, Changed, MemberRole};
use raftnode::{Consistency, Unknown};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::{self, Answer, Fault};
use super::intake::RequestBody;
use super::route::bad_id;
use super::txn::Object;
use super::view::Members;
use super::{Api, patiently};

/// The longest body of a membership call: one URL, with an id and a role around it.
pub(super) const MAX_BYTES: u64 = 4096;

/// The body of `POST /_members`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMember {
    id: u64,
    url: String,
    #[serde(default)]
    role: WantedRole,
}

/// The body of `PATCH /_members/<id>`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberPatch {
    role: Option<WantedRole>,
    url: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum WantedRole {
    #[default]
    Voter,
    Learner,
}

impl From<WantedRole> for MemberRole {
    fn from(role: WantedRole) -> Self {
        match role {
            WantedRole::Voter => MemberRole::Voter,
            WantedRole::Learner => MemberRole::Learner,
        }
    }
}

impl Api {
    /// The URL is the body.
    pub(super) async fn add_member(
        &self,
        id: u64,
        options: ChangeOptions,
        body: &mut RequestBody,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let url = self.read_text(body, deadline).await?;
        let add = Change::Add { id, url: peer_url(&url)?, wants: MemberRole::Voter };
        self.change(add, options, deadline).await
    }

    pub(super) async fn post_member(
        &self,
        options: ChangeOptions,
        body: &mut RequestBody,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let NewMember { id, url, role } = self.read_json(body, deadline).await?;
        if id == 0 {
            return Err(bad_id());
        }
        let add = Change::Add { id, url: peer_url(&url)?, wants: role.into() };
        self.change(add, options, deadline).await
    }

    pub(super) async fn patch_member(
        &self,
        id: u64,
        options: ChangeOptions,
        body: &mut RequestBody,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let MemberPatch { role, url } = self.read_json(body, deadline).await?;
        if role.is_none() && url.is_none() {
            return Err(Fault::malformed("the body has neither a role nor a url"));
        }
        let url = url.as_deref().map(peer_url).transpose()?;
        let update = Change::Update { id, wants: role.map(MemberRole::from), url };
        self.change(update, options, deadline).await
    }

    pub(super) async fn remove_member(
        &self,
        id: u64,
        options: ChangeOptions,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        self.change(Change::Remove { id }, options, deadline).await
    }

    async fn change(
        &self,
        change: Change,
        options: ChangeOptions,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let pending = self.handle.node().change(change, options, deadline)?;
        let changed = patiently(deadline, pending.into_future()).await;
        match changed.unwrap_or(Changed::Unknown(Unknown::Deadline)) {
            Changed::Done { book, .. } if options.dry_run => {
                let left = Members::new(&book, &self.handle.node().status());
                Ok(answer::json(StatusCode::OK, &left))
            }
            Changed::Done { index, term, .. } => {
                // The leader has applied it. Whoever asks this member next shall see it too; that
                // this member may be the one that was removed is no reason not to answer.
                if let Ok(here) = self.handle.node().read(Consistency::Stale, index, deadline) {
                    patiently(deadline, here.into_future()).await;
                }
                Ok(answer::applied(index, term))
            }
            Changed::Refused(refusal) => Err(refusal.into()),
            Changed::Unknown(_) => Err(Fault::unknown_change()),
        }
    }

    pub(super) fn members(&self) -> Answer {
        let status = self.handle.node().status();
        answer::json(StatusCode::OK, &Members::new(&status.book, &status))
    }

    async fn read_text(&self, body: &mut RequestBody, deadline: Instant) -> Result<String, Fault> {
        let _share = body.admit(MAX_BYTES, &self.bodies)?;
        let bytes = body.read(MAX_BYTES, BytesMut::with_capacity, deadline).await?;
        String::from_utf8(bytes.into()).map_err(|_| Fault::malformed("the body is not UTF-8"))
    }

    /// Refuses what it does not know: a misspelt role must not become the default one.
    async fn read_json<T: DeserializeOwned>(
        &self,
        body: &mut RequestBody,
        deadline: Instant,
    ) -> Result<T, Fault> {
        let text = self.read_text(body, deadline).await?;
        let read = serde_json::from_str(&text).map(|Object(read)| read);
        read.map_err(|error| Fault::malformed(format!("the body is not as expected: {error}")))
    }
}

/// Normalised, so that the same place is always written in the same way.
fn peer_url(text: &str) -> Result<String, Fault> {
    let wrong = |what| Fault::malformed(format!("bad URL: {what}"));
    membership::peer_url(text.trim()).map_err(wrong)
}
