//! A profile: whom others follow. Its id is the user's.
//!
//! Whom to tell of a new card is decided here, where the followers are: a processor knows none. A profile that is not
//! public keeps its followers, and tells them nothing until it is public again. A curator without a profile has no followers.
//!
//! It also remembers whether its owner ever began a collection, for the first one is greeted. That needs no profile to
//! have been created.

use std::collections::BTreeSet;

use millrace::aggregate::{Aggregate, Context};
use schemas::library::{
    AnnounceCard, ChangeVisibility, CreateProfile, FollowProfile, ProfileCardAnnounced,
    ProfileCommand, ProfileCreated, ProfileEvent, ProfileFirstCollectionStarted, ProfileFollowed,
    ProfileUnfollowed, ProfileVisibilityChanged, StartCollection, UnfollowProfile,
};
use serde::{Deserialize, Serialize};

use super::{Field, check_id, check_name};

/// Most followers of one profile: an announcement to all of them is one append of bounded size.
const FOLLOWERS_MAX: usize = 10_000;

/// Most followers whom one event names: with ids of any allowed length it stays far below the limit of an event.
const FOLLOWERS_PER_EVENT: usize = 500;

/// Why a profile does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A field that is not taken.
    #[error(transparent)]
    Field(#[from] Field),
    /// It was created before.
    #[error("the profile exists")]
    Exists,
    /// It must be created first.
    #[error("there is no such profile")]
    Missing,
    /// Nobody is told of their own cards.
    #[error("nobody follows themselves")]
    Oneself,
    /// More than is handled.
    #[error("a profile has at most {FOLLOWERS_MAX} followers")]
    TooManyFollowers,
}

/// A profile, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// None before it was created.
    name: Option<String>,
    public: bool,
    followers: BTreeSet<String>,
    /// True from the owner's first collection on.
    has_collected: bool,
}

impl Aggregate for Profile {
    type Command = ProfileCommand;
    type Event = ProfileEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: ProfileCommand,
        context: &Context,
    ) -> Result<Vec<ProfileEvent>, Rejection> {
        match command {
            ProfileCommand::CreateProfile(CreateProfile { name, public }) => {
                if self.name.is_some() {
                    return Err(Rejection::Exists);
                }
                check_name("name", &name)?;
                Ok(vec![ProfileCreated { name, public }.into()])
            }
            ProfileCommand::ChangeVisibility(ChangeVisibility { public }) => {
                self.must_exist()?;
                let changed =
                    (public != self.public).then_some(ProfileVisibilityChanged { public });
                Ok(changed.into_iter().map(ProfileEvent::from).collect())
            }
            ProfileCommand::FollowProfile(FollowProfile { follower_id }) => {
                self.follow(follower_id, context)
            }
            ProfileCommand::UnfollowProfile(UnfollowProfile { follower_id }) => {
                self.must_exist()?;
                let follows = self.followers.contains(&follower_id);
                let unfollowed = follows.then_some(ProfileUnfollowed { follower_id });
                Ok(unfollowed.into_iter().map(ProfileEvent::from).collect())
            }
            ProfileCommand::AnnounceCard(card) => Ok(self.announce(&card)),
            ProfileCommand::StartCollection(StartCollection {
                collection_id,
                name,
            }) => {
                let first = (!self.has_collected).then_some(ProfileFirstCollectionStarted {
                    collection_id,
                    name,
                });
                Ok(first.into_iter().map(ProfileEvent::from).collect())
            }
        }
    }

    fn evolve(&mut self, event: &ProfileEvent) {
        match event {
            ProfileEvent::ProfileCreated(created) => {
                self.name = Some(created.name.clone());
                self.public = created.public;
            }
            ProfileEvent::ProfileVisibilityChanged(changed) => self.public = changed.public,
            ProfileEvent::ProfileFollowed(followed) => {
                self.followers.insert(followed.follower_id.clone());
            }
            ProfileEvent::ProfileUnfollowed(unfollowed) => {
                self.followers.remove(&unfollowed.follower_id);
            }
            ProfileEvent::ProfileCardAnnounced(_) => {}
            ProfileEvent::ProfileFirstCollectionStarted(_) => self.has_collected = true,
        }
    }
}

impl Profile {
    fn follow(
        &self,
        follower_id: String,
        context: &Context,
    ) -> Result<Vec<ProfileEvent>, Rejection> {
        self.must_exist()?;
        check_id("follower_id", &follower_id)?;
        if follower_id == context.aggregate_id {
            return Err(Rejection::Oneself);
        }
        if self.followers.contains(&follower_id) {
            return Ok(Vec::new());
        }
        if self.followers.len() >= FOLLOWERS_MAX {
            return Err(Rejection::TooManyFollowers);
        }
        Ok(vec![ProfileFollowed { follower_id }.into()])
    }

    /// No answer but events: whoever sends this is a processor, and a curator without followers is as good as any.
    fn announce(&self, card: &AnnounceCard) -> Vec<ProfileEvent> {
        let Some(name) = self.name.as_ref().filter(|_| self.public) else {
            return Vec::new();
        };
        let followers: Vec<String> = self.followers.iter().cloned().collect();
        followers
            .chunks(FOLLOWERS_PER_EVENT)
            .map(|followers| {
                ProfileCardAnnounced {
                    name: name.clone(),
                    card_id: card.card_id.clone(),
                    card_type: card.card_type.clone(),
                    url: card.url.clone(),
                    title: card.title.clone(),
                    followers: followers.to_vec(),
                }
                .into()
            })
            .collect()
    }

    fn must_exist(&self) -> Result<(), Rejection> {
        self.name.as_ref().map(drop).ok_or(Rejection::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace::testing::given;

    fn created(public: bool) -> ProfileEvent {
        ProfileCreated {
            name: "Ada".into(),
            public,
        }
        .into()
    }

    fn follow(follower_id: &str) -> FollowProfile {
        FollowProfile {
            follower_id: follower_id.into(),
        }
    }

    fn followed(follower_id: &str) -> ProfileEvent {
        ProfileFollowed {
            follower_id: follower_id.into(),
        }
        .into()
    }

    fn unfollow(follower_id: &str) -> UnfollowProfile {
        UnfollowProfile {
            follower_id: follower_id.into(),
        }
    }

    fn unfollowed(follower_id: &str) -> ProfileEvent {
        ProfileUnfollowed {
            follower_id: follower_id.into(),
        }
        .into()
    }

    fn announce() -> AnnounceCard {
        AnnounceCard {
            card_id: "tea".into(),
            card_type: "article".into(),
            url: "https://a.example/tea".into(),
            title: "Tea".into(),
        }
    }

    fn announced(followers: &[&str]) -> ProfileEvent {
        ProfileCardAnnounced {
            name: "Ada".into(),
            card_id: "tea".into(),
            card_type: "article".into(),
            url: "https://a.example/tea".into(),
            title: "Tea".into(),
            followers: followers.iter().map(|id| (*id).to_owned()).collect(),
        }
        .into()
    }

    fn start(collection_id: &str) -> StartCollection {
        StartCollection {
            collection_id: collection_id.into(),
            name: "Reading".into(),
        }
    }

    fn started(collection_id: &str) -> ProfileEvent {
        ProfileFirstCollectionStarted {
            collection_id: collection_id.into(),
            name: "Reading".into(),
        }
        .into()
    }

    #[test]
    fn a_profile_is_created_once_and_has_a_name() {
        let create = |name: &str| CreateProfile {
            name: name.into(),
            public: true,
        };
        given::<Profile>([])
            .when(create("Ada"))
            .then([created(true)]);
        given::<Profile>([created(true)])
            .when(create("Ada"))
            .then_rejected(Rejection::Exists);
        given::<Profile>([])
            .when(create(""))
            .then_rejected(Rejection::Field(Field::Empty("name")));
    }

    #[test]
    fn somebody_follows_a_profile_once_until_they_do_no_more() {
        given::<Profile>([created(true)])
            .when(follow("bob"))
            .then([followed("bob")]);
        given::<Profile>([created(true), followed("bob")])
            .when(follow("bob"))
            .then_nothing();
        given::<Profile>([created(true), followed("bob")])
            .when(unfollow("bob"))
            .then([unfollowed("bob")]);
        given::<Profile>([created(true), followed("bob"), unfollowed("bob")])
            .when(unfollow("bob"))
            .then_nothing();
    }

    #[test]
    fn nobody_follows_themselves_or_nobody_or_as_nobody() {
        given::<Profile>([created(true)])
            .id("ada")
            .when(follow("ada"))
            .then_rejected(Rejection::Oneself);
        given::<Profile>([])
            .when(follow("bob"))
            .then_rejected(Rejection::Missing);
        given::<Profile>([created(true)])
            .when(follow(""))
            .then_rejected(Rejection::Field(Field::Empty("follower_id")));
    }

    #[test]
    fn a_public_profile_announces_a_card_to_those_who_follow_it_then() {
        given::<Profile>([
            created(true),
            followed("bob"),
            followed("eve"),
            unfollowed("bob"),
            followed("joe"),
        ])
        .when(announce())
        .then([announced(&["eve", "joe"])]);
    }

    #[test]
    fn a_profile_that_is_not_public_announces_nothing_until_it_is() {
        let visible = |public| ProfileEvent::from(ProfileVisibilityChanged { public });
        given::<Profile>([created(false), followed("bob")])
            .when(announce())
            .then_nothing();
        given::<Profile>([created(true), followed("bob"), visible(false)])
            .when(announce())
            .then_nothing();
        given::<Profile>([created(false), followed("bob"), visible(true)])
            .when(announce())
            .then([announced(&["bob"])]);
    }

    #[test]
    fn a_curator_without_a_profile_or_without_followers_announces_nothing() {
        given::<Profile>([]).when(announce()).then_nothing();
        given::<Profile>([created(true)])
            .when(announce())
            .then_nothing();
    }

    #[test]
    fn visibility_changes_only_where_it_differs() {
        let change = |public| ChangeVisibility { public };
        given::<Profile>([created(true)])
            .when(change(true))
            .then_nothing();
        given::<Profile>([created(true)])
            .when(change(false))
            .then([ProfileVisibilityChanged { public: false }.into()]);
        given::<Profile>([])
            .when(change(false))
            .then_rejected(Rejection::Missing);
    }

    #[test]
    fn an_announcement_to_many_is_several_events_and_names_each_once() {
        let ids: Vec<String> = (0..FOLLOWERS_PER_EVENT + 1)
            .map(|number| format!("u{number:05}"))
            .collect();
        let history: Vec<ProfileEvent> = std::iter::once(created(true))
            .chain(ids.iter().map(|id| followed(id)))
            .collect();
        let named: Vec<&str> = ids.iter().map(String::as_str).collect();
        let (first, last) = named.split_at(FOLLOWERS_PER_EVENT);
        given::<Profile>(history)
            .when(announce())
            .then([announced(first), announced(last)]);
    }

    #[test]
    fn a_profile_has_no_more_followers_than_it_can_tell() {
        let full = std::iter::once(created(true))
            .chain((0..FOLLOWERS_MAX).map(|number| followed(&format!("u{number}"))));
        given::<Profile>(full)
            .when(follow("bob"))
            .then_rejected(Rejection::TooManyFollowers);
    }

    #[test]
    fn only_the_first_collection_is_greeted_with_or_without_a_profile() {
        given::<Profile>([]).when(start("a")).then([started("a")]);
        given::<Profile>([started("a")])
            .when(start("b"))
            .then_nothing();
        given::<Profile>([started("a")])
            .when(CreateProfile {
                name: "Ada".into(),
                public: true,
            })
            .then([created(true)]);
    }
}
