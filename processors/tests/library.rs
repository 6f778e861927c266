//! The library's flows on a topology without a broker: what each event leads to, and that it leads to it once.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::DateTime;
use millrace::testing::topology::{Emitted, Published, TopologyLog};
use schemas::library::*;
use schemas::notification::{Kind, RecipientCommand, RequestNotification};
use uuid::Uuid;

fn log() -> TopologyLog {
    TopologyLog::new(&processors::topology(), &schemas::all())
}

fn added(curator: &str, curators: i64) -> CardAddedToLibrary {
    CardAddedToLibrary {
        curator_id: curator.into(),
        card_type: "article".into(),
        url: "https://a.example/outbox".into(),
        title: "The outbox".into(),
        description: "Why".into(),
        curators,
    }
}

fn removed(curator: &str, curators: i64) -> CardRemovedFromLibrary {
    CardRemovedFromLibrary {
        curator_id: curator.into(),
        curators,
    }
}

fn created() -> CollectionCreated {
    CollectionCreated {
        owner_id: "ada".into(),
        name: "Reading".into(),
    }
}

fn announced(title: &str, followers: &[&str]) -> ProfileCardAnnounced {
    ProfileCardAnnounced {
        name: "Ada".into(),
        card_id: "outbox".into(),
        card_type: "article".into(),
        url: "https://a.example/outbox".into(),
        title: title.into(),
        followers: followers.iter().map(|id| (*id).to_owned()).collect(),
    }
}

fn first_collection() -> ProfileFirstCollectionStarted {
    ProfileFirstCollectionStarted {
        collection_id: "c1".into(),
        name: "Reading".into(),
    }
}

/// What came to profiles since the last call, with whose they are.
fn to_profiles(log: &mut TopologyLog) -> Vec<(String, ProfileCommand)> {
    let emitted = log.drain::<ProfileCommand>().into_iter();
    emitted.map(|one| (one.aggregate_id, one.command)).collect()
}

fn to_recipients(log: &mut TopologyLog) -> Vec<(String, RecipientCommand)> {
    let emitted = log.drain::<RecipientCommand>().into_iter();
    emitted.map(|one| (one.aggregate_id, one.command)).collect()
}

fn request(kind: Kind, of: Uuid, params: &[(&str, &str)]) -> RecipientCommand {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    RequestNotification {
        kind,
        source_event_id: of.to_string(),
        happened_at: DateTime::from_timestamp(1_767_225_600, 0),
        params: params.iter().map(owned).collect::<BTreeMap<_, _>>(),
    }
    .into()
}

fn told(log: &mut TopologyLog) -> Vec<(String, LibraryPublished)> {
    let published = log.published::<LibraryPublished>().into_iter();
    published.map(|one| (one.key, one.event)).collect()
}

#[test]
fn a_card_that_is_added_is_announced_by_its_curators_profile() {
    let mut log = log();
    log.pipe::<CardEvent>("outbox", added("ada", 1));
    log.pipe::<CardEvent>("outbox", added("bob", 2));
    let announce = ProfileCommand::from(AnnounceCard {
        card_id: "outbox".into(),
        card_type: "article".into(),
        url: "https://a.example/outbox".into(),
        title: "The outbox".into(),
    });
    assert_eq!(
        to_profiles(&mut log),
        [
            ("ada".to_owned(), announce.clone()),
            ("bob".to_owned(), announce)
        ]
    );
    log.pipe::<CardEvent>("outbox", removed("bob", 1));
    assert_eq!(to_profiles(&mut log), []);
}

#[test]
fn a_collection_that_is_begun_is_told_to_its_owners_profile() {
    let mut log = log();
    log.pipe::<CollectionEvent>("c1", created());
    let start = StartCollection {
        collection_id: "c1".into(),
        name: "Reading".into(),
    };
    assert_eq!(to_profiles(&mut log), [("ada".to_owned(), start.into())]);
    let (owner_id, card_id) = ("ada".to_owned(), "outbox".to_owned());
    log.pipe::<CollectionEvent>("c1", CollectionCardAdded { owner_id, card_id });
    assert_eq!(to_profiles(&mut log), []);
}

#[test]
fn every_follower_is_told_of_an_announced_card() {
    let mut log = log();
    let event = log.pipe::<ProfileEvent>("ada", announced("The outbox", &["bob", "eve"]));
    let params = [
        ("curator_name", "Ada"),
        ("card_title", "The outbox"),
        ("card_url", "https://a.example/outbox"),
    ];
    let request = request(Kind::CardAdded, event, &params);
    assert_eq!(
        to_recipients(&mut log),
        [
            ("bob".to_owned(), request.clone()),
            ("eve".to_owned(), request)
        ]
    );
}

#[test]
fn a_card_without_a_title_is_called_by_its_address() {
    let mut log = log();
    log.pipe::<ProfileEvent>("ada", announced("", &["bob"]));
    let (_, RecipientCommand::RequestNotification(request)) = to_recipients(&mut log).remove(0)
    else {
        panic!("no request");
    };
    assert_eq!(request.params["card_title"], "https://a.example/outbox");
}

#[test]
fn an_owner_is_welcomed_to_their_first_collection() {
    let mut log = log();
    let event = log.pipe::<ProfileEvent>("ada", first_collection());
    let welcome = request(
        Kind::CollectionWelcome,
        event,
        &[("collection_name", "Reading")],
    );
    assert_eq!(to_recipients(&mut log), [("ada".to_owned(), welcome)]);
}

#[test]
fn a_request_brings_what_its_kinds_templates_fill_in() {
    let mut log = log();
    log.pipe::<ProfileEvent>("ada", announced("The outbox", &["bob"]));
    log.pipe::<ProfileEvent>("ada", first_collection());
    for (_, command) in to_recipients(&mut log) {
        let RecipientCommand::RequestNotification(request) = command else {
            panic!("{command:?}");
        };
        let brought: Vec<&str> = request.params.keys().map(String::as_str).collect();
        let mut asked = request.kind.params().to_vec();
        asked.sort_unstable();
        assert_eq!(brought, asked, "{}", request.kind);
    }
}

#[test]
fn who_follows_whom_is_nobody_elses_news() {
    let mut log = log();
    let follower_id = || "bob".to_owned();
    let name = "Ada".to_owned();
    log.pipe::<ProfileEvent>("ada", ProfileCreated { name, public: true });
    log.pipe::<ProfileEvent>(
        "ada",
        ProfileFollowed {
            follower_id: follower_id(),
        },
    );
    log.pipe::<ProfileEvent>(
        "ada",
        ProfileUnfollowed {
            follower_id: follower_id(),
        },
    );
    log.pipe::<ProfileEvent>("ada", ProfileVisibilityChanged { public: false });
    assert_eq!(to_recipients(&mut log), []);
    assert_eq!(told(&mut log), []);
}

#[test]
fn others_hear_of_a_card_when_it_comes_into_the_first_library_and_when_it_leaves_the_last() {
    let mut log = log();
    log.pipe::<CardEvent>("outbox", added("ada", 1));
    let listed = CardListed {
        card_id: "outbox".into(),
        card_type: "article".into(),
        url: "https://a.example/outbox".into(),
        title: "The outbox".into(),
    };
    assert_eq!(told(&mut log), [("outbox".to_owned(), listed.into())]);
    log.pipe::<CardEvent>("outbox", added("bob", 2));
    log.pipe::<CardEvent>("outbox", removed("ada", 1));
    assert_eq!(told(&mut log), []);
    log.pipe::<CardEvent>("outbox", removed("bob", 0));
    let card_id = "outbox".to_owned();
    let unlisted = CardUnlisted { card_id };
    assert_eq!(told(&mut log), [("outbox".to_owned(), unlisted.into())]);
}

#[test]
fn others_hear_of_a_collection_but_not_of_what_is_in_it() {
    let mut log = log();
    log.pipe::<CollectionEvent>("c1", created());
    let opened = CollectionOpened {
        collection_id: "c1".into(),
        owner_id: "ada".into(),
        name: "Reading".into(),
    };
    assert_eq!(told(&mut log), [("c1".to_owned(), opened.into())]);
    let (owner_id, card_id) = ("ada".to_owned(), "outbox".to_owned());
    log.pipe::<CollectionEvent>("c1", CollectionCardAdded { owner_id, card_id });
    assert_eq!(told(&mut log), []);
}

#[test]
fn what_is_published_says_what_it_came_from() {
    let mut log = log();
    log.pipe::<CardEvent>("outbox", added("ada", 1));
    let last = log.pipe::<CardEvent>("outbox", removed("ada", 0));
    let published = log.published::<LibraryPublished>();
    let envelope = published[1].record.envelope.as_ref().unwrap();
    let metadata = &envelope.metadata;
    assert_eq!(
        (envelope.aggregate_id.as_str(), envelope.sequence),
        ("outbox", 2)
    );
    assert_eq!(metadata.causation_id, Some(last.to_string()));
    assert_eq!(metadata.occurred_at, log.time());
    assert_eq!(metadata.event_id.get_version_num(), 5);
    let header = |name: &str| {
        let mut headers = published[1].record.headers.iter();
        let (_, value) = headers.find(|(found, _)| *found == name).unwrap();
        String::from_utf8(value.unwrap().to_vec()).unwrap()
    };
    assert_eq!(header("ce_type"), "library.card_unlisted");
    assert_eq!(header("ce_source"), "/millrace/processor/card-published");
}

#[test]
fn a_replay_of_every_flow_repeats_all_of_it_under_its_ids() {
    let mut log = log();
    log.pipe::<CardEvent>("outbox", added("ada", 1));
    log.pipe::<CardEvent>("outbox", removed("ada", 0));
    log.pipe::<CollectionEvent>("c1", created());
    log.pipe::<ProfileEvent>("ada", announced("The outbox", &["bob", "eve"]));
    log.pipe::<ProfileEvent>("ada", first_collection());
    let ids = |log: &mut TopologyLog| -> Vec<Uuid> {
        let profiles = log.drain::<ProfileCommand>();
        let recipients = log.drain::<RecipientCommand>();
        let published = log.published::<LibraryPublished>();
        let mut ids: Vec<Uuid> = profiles.iter().map(|one: &Emitted<_>| one.id).collect();
        ids.extend(recipients.iter().map(|one| one.id));
        ids.extend(published.iter().map(|one: &Published<_>| one.id));
        ids.sort_unstable();
        ids
    };
    let first = ids(&mut log);
    assert_eq!(first.len(), 2 + 3 + 3);
    for flow in [
        "card-profile",
        "collection-profile",
        "profile-recipient",
        "card-published",
        "collection-published",
    ] {
        for partition in 0..3 {
            log.reset(flow, partition, 0);
        }
    }
    log.advance(Duration::from_secs(60));
    assert_eq!(ids(&mut log), first);
}

/// Enrichment: an event that names a curator by id becomes, by way of the profile that knows them, a request that says the name, and one for
/// each follower. No processor looks anything up: the profile adds what it knows when it announces.
#[test]
fn a_card_of_somebodys_id_reaches_each_follower_with_the_name_that_the_profile_adds() {
    let mut log = log();
    log.pipe::<CardEvent>("outbox", added("ada", 1));
    let asked = to_profiles(&mut log);
    assert!(
        !format!("{asked:?}").contains("Ada"),
        "the event knows an id only"
    );
    assert_eq!(asked[0].0, "ada");
    let event = log.pipe::<ProfileEvent>("ada", announced("The outbox", &["bob", "eve"]));
    let told = to_recipients(&mut log);
    let followers: Vec<&str> = told.iter().map(|(to, _)| to.as_str()).collect();
    assert_eq!(followers, ["bob", "eve"]);
    let params = [
        ("curator_name", "Ada"),
        ("card_title", "The outbox"),
        ("card_url", "https://a.example/outbox"),
    ];
    let enriched = request(Kind::CardAdded, event, &params);
    assert!(told.iter().all(|(_, command)| *command == enriched));
}
