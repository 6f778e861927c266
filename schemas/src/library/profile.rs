//! A profile: what can be asked of it, and what happens to it.

use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to a profile.
    pub enum ProfileEvent for "profile" in "library" {
        ProfileCreated [1],
        ProfileVisibilityChanged [1],
        ProfileFollowed [1],
        ProfileUnfollowed [1],
        ProfileCardAnnounced [1],
        ProfileFirstCollectionStarted [1],
    }
}

millrace::commands! {
    /// What can be asked of a profile.
    pub enum ProfileCommand for "profile" in "library" {
        CreateProfile [1],
        ChangeVisibility [1],
        FollowProfile [1],
        UnfollowProfile [1],
        AnnounceCard [1],
        StartCollection [1],
    }
}

/// Somebody can be followed from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileCreated {
    /// As others read it.
    pub name: String,
    /// False where followers are told nothing.
    pub public: bool,
}

/// Followers are told of new cards from now on, or no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileVisibilityChanged {
    /// False where followers are told nothing.
    pub public: bool,
}

/// Somebody wants to be told of new cards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileFollowed {
    /// Who.
    pub follower_id: String,
}

/// Somebody wants to be told of new cards no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileUnfollowed {
    /// Who.
    pub follower_id: String,
}

/// Followers of a public profile are to be told of a new card; where there are many, in several events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileCardAnnounced {
    /// The profile's, as others read it.
    pub name: String,
    /// Which card.
    pub card_id: String,
    /// What it is, such as `article`.
    pub card_type: String,
    /// Where it is.
    pub url: String,
    /// Empty where it has none.
    pub title: String,
    /// Who is to be told; never empty.
    pub followers: Vec<String>,
}

/// Somebody began the first of their collections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileFirstCollectionStarted {
    /// Which collection.
    pub collection_id: String,
    /// The collection's.
    pub name: String,
}

/// Lets others follow somebody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateProfile {
    /// As others read it.
    pub name: String,
    /// False where followers are told nothing.
    pub public: bool,
}

/// Begins or ends to tell followers of new cards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeVisibility {
    /// False where followers are told nothing.
    pub public: bool,
}

/// Begins to be told of new cards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowProfile {
    /// Who wants to be told.
    pub follower_id: String,
}

/// Ends to be told of new cards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnfollowProfile {
    /// Who wants to be told no more.
    pub follower_id: String,
}

/// The profile's owner took a card into their library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnounceCard {
    /// Which card.
    pub card_id: String,
    /// What it is, such as `article`.
    pub card_type: String,
    /// Where it is.
    pub url: String,
    /// Empty where it has none.
    pub title: String,
}

/// The profile's owner began a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartCollection {
    /// Which collection.
    pub collection_id: String,
    /// The collection's.
    pub name: String,
}
