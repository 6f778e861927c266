//! Ties the structs of cards, collections and profiles to their schema files.

use std::path::{Path, PathBuf};

use millrace::codec::Schema;
use millrace::event::RecordSchema;
use millrace::registry::{RecordKind, SchemaSet};
use millrace::testing::contract;
use schemas::library::*;

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

#[test]
fn the_structs_of_a_card_are_what_its_schema_files_say() {
    let events: [CardEvent; 2] = [
        CardAddedToLibrary {
            curator_id: "u".into(),
            card_type: "article".into(),
            url: "https://a.example/1".into(),
            title: "t".into(),
            description: "d".into(),
            curators: 1,
        }
        .into(),
        CardRemovedFromLibrary {
            curator_id: "u".into(),
            curators: 0,
        }
        .into(),
    ];
    contract::check(&events, &golden("golden"));
    let commands: [CardCommand; 2] = [
        AddCardToLibrary {
            curator_id: "u".into(),
            card_type: "article".into(),
            url: "https://a.example/1".into(),
            title: "t".into(),
            description: "d".into(),
        }
        .into(),
        RemoveCardFromLibrary {
            curator_id: "u".into(),
        }
        .into(),
    ];
    contract::check_commands(&commands, &golden("golden/commands"));
}

#[test]
fn the_structs_of_a_collection_are_what_its_schema_files_say() {
    let card_id = || "c".to_owned();
    let owner_id = || "u".to_owned();
    let events: [CollectionEvent; 3] = [
        CollectionCreated {
            owner_id: owner_id(),
            name: "n".into(),
        }
        .into(),
        CollectionCardAdded {
            owner_id: owner_id(),
            card_id: card_id(),
        }
        .into(),
        CollectionCardRemoved {
            owner_id: owner_id(),
            card_id: card_id(),
        }
        .into(),
    ];
    contract::check(&events, &golden("golden"));
    let commands: [CollectionCommand; 3] = [
        CreateCollection {
            owner_id: owner_id(),
            name: "n".into(),
        }
        .into(),
        AddCardToCollection { card_id: card_id() }.into(),
        RemoveCardFromCollection { card_id: card_id() }.into(),
    ];
    contract::check_commands(&commands, &golden("golden/commands"));
}

#[test]
fn the_structs_of_a_profile_are_what_its_schema_files_say() {
    let name = || "n".to_owned();
    let follower_id = || "f".to_owned();
    let (card_id, collection_id) = ("c".to_owned(), "k".to_owned());
    let events: [ProfileEvent; 6] = [
        ProfileCreated {
            name: name(),
            public: true,
        }
        .into(),
        ProfileVisibilityChanged { public: true }.into(),
        ProfileFollowed {
            follower_id: follower_id(),
        }
        .into(),
        ProfileUnfollowed {
            follower_id: follower_id(),
        }
        .into(),
        ProfileCardAnnounced {
            name: name(),
            card_id: card_id.clone(),
            card_type: "article".into(),
            url: "https://a.example/1".into(),
            title: "t".into(),
            followers: vec![follower_id()],
        }
        .into(),
        ProfileFirstCollectionStarted {
            collection_id: collection_id.clone(),
            name: name(),
        }
        .into(),
    ];
    contract::check(&events, &golden("golden"));
    let commands: [ProfileCommand; 6] = [
        CreateProfile {
            name: name(),
            public: true,
        }
        .into(),
        ChangeVisibility { public: true }.into(),
        FollowProfile {
            follower_id: follower_id(),
        }
        .into(),
        UnfollowProfile {
            follower_id: follower_id(),
        }
        .into(),
        AnnounceCard {
            card_id,
            card_type: "article".into(),
            url: "https://a.example/1".into(),
            title: "t".into(),
        }
        .into(),
        StartCollection {
            collection_id,
            name: name(),
        }
        .into(),
    ];
    contract::check_commands(&commands, &golden("golden/commands"));
}

#[test]
fn the_structs_of_what_is_published_are_what_their_schema_files_say() {
    let card_id = || "c".to_owned();
    let published: [LibraryPublished; 3] = [
        CardListed {
            card_id: card_id(),
            card_type: "article".into(),
            url: "https://a.example/1".into(),
            title: "t".into(),
        }
        .into(),
        CardUnlisted { card_id: card_id() }.into(),
        CollectionOpened {
            collection_id: "k".into(),
            owner_id: "u".into(),
            name: "n".into(),
        }
        .into(),
    ];
    contract::check(&published, &golden("golden/published"));
}

/// No reader of the published topic can come to depend on a record of an inner one.
#[test]
fn what_is_published_shares_no_subject_with_anything_inside() {
    let subjects = |set: &SchemaSet| -> Vec<String> {
        let parsed = |schema: &RecordSchema| Schema::parse_str(schema.json).unwrap();
        let of = |schema| set.subject(&parsed(schema));
        set.schemas.iter().map(of).collect()
    };
    let (published, inner): (Vec<_>, Vec<_>) = schemas::all()
        .into_iter()
        .partition(|set| set.kind == RecordKind::Published);
    let published: Vec<String> = published.iter().flat_map(subjects).collect();
    assert_eq!(
        published,
        [
            "library.published-library.published.CardListed",
            "library.published-library.published.CardUnlisted",
            "library.published-library.published.CollectionOpened",
        ]
    );
    for subject in inner.iter().flat_map(subjects) {
        let (_, record) = subject.split_once('-').unwrap();
        let shared = published
            .iter()
            .any(|one| one.ends_with(&format!("-{record}")));
        assert!(!shared, "{subject}");
    }
}
