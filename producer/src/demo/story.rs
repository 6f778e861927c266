//! The story: Ada and Bob join, share cards, order tea, and are told of it.

use millrace::command::HistoryEntry;
use millrace::http::problem::Problem;
use schemas::identity::registration::RegisterUser;
use schemas::identity::user::{ActivateUser, VerifyUserEmail};
use schemas::identity::workspace::{AddWorkspaceMember, MemberRole};
use schemas::library::{
    AddCardToCollection, AddCardToLibrary, CreateCollection, CreateProfile, FollowProfile,
};

use super::orders;
use super::teller::{Outcome, Teller};

/// What an outcome takes that needs no setting.
pub(super) const PROCESSORS: &str =
    "processors that run and a relay that publishes, see `millrace status`";
/// What being told takes.
const ADAPTER: &str = "EMAIL_ADAPTER at the processors, `log` for development";

/// Whatever a message can come to.
const DELIVERED: [&str; 3] = [
    "NotificationSent",
    "NotificationFailed",
    "NotificationUncertain",
];

/// The ids of the story; each begins with the story's own.
pub(super) struct Cast {
    tenant: String,
    workspace: String,
    pub(super) ada: String,
    pub(super) bob: String,
    outbox: String,
    saga: String,
    reading: String,
    patterns: String,
    pub(super) tea: String,
    pub(super) cup: String,
    /// Bob's, by choreography.
    pub(super) bobs_order: String,
    /// Ada's, by a saga.
    pub(super) adas_order: String,
    /// Ada's, of more cups than there are.
    pub(super) too_much: String,
}

impl Cast {
    fn of(story: &str) -> Self {
        let id = |name: &str| format!("{story}-{name}");
        Self {
            tenant: story.to_owned(),
            // A first workspace has the id of its registration, which is its user's here.
            workspace: id("ada"),
            ada: id("ada"),
            bob: id("bob"),
            outbox: id("outbox"),
            saga: id("saga"),
            reading: id("reading"),
            patterns: id("patterns"),
            tea: id("tea"),
            cup: id("cup"),
            bobs_order: id("order-1"),
            adas_order: id("order-2"),
            too_much: id("order-3"),
        }
    }
}

/// Tells all of it, or ends with what is missing.
pub(super) async fn tell(teller: &mut Teller<'_>, story: &str) -> Result<(), Problem> {
    let cast = Cast::of(story);
    teller.enter("identity");
    join(teller, &cast).await?;
    teller.enter("library");
    share(teller, &cast).await?;
    teller.enter("commerce");
    orders::stock_up(teller, &cast).await?;
    orders::by_choreography(teller, &cast).await?;
    orders::by_saga(teller, &cast).await?;
    teller.enter("notifications");
    are_told(teller, &cast).await
}

async fn join(teller: &mut Teller<'_>, cast: &Cast) -> Result<(), Problem> {
    for (what, user, first_name, last_name) in [
        (
            "Ada registers and brings her tenant",
            &cast.ada,
            "Ada",
            "Lovelace",
        ),
        (
            "Bob registers with the same tenant",
            &cast.bob,
            "Bob",
            "Babbage",
        ),
    ] {
        let register = RegisterUser {
            tenant_id: cast.tenant.clone(),
            tenant_name: Some("Analytical Engines".to_owned()),
            // Nobody has mail at this domain: it is set aside for examples.
            email: format!("{user}@example.org"),
            user_id: Some(user.clone()),
            first_name: first_name.to_owned(),
            last_name: last_name.to_owned(),
            phone: None,
            timezone: Some("Europe/London".to_owned()),
            language: Some("en".to_owned()),
            workspace_name: None,
            credential_id: None,
        };
        teller.tell(what, user, &register).await?;
        comes(
            teller,
            "all four steps of a registration are taken",
            ("registration", user),
            ("RegistrationCompleted", 1),
            PROCESSORS,
        )
        .await?;
    }
    teller
        .tell("Ada's address is verified", &cast.ada, &VerifyUserEmail {})
        .await?;
    teller
        .tell("Ada is activated", &cast.ada, &ActivateUser {})
        .await?;
    let member = AddWorkspaceMember {
        user_id: cast.bob.clone(),
        role: MemberRole::Member,
    };
    teller
        .tell("Bob comes into Ada's workspace", &cast.workspace, &member)
        .await?;
    // Tenant and users are looked at too: their events came from the flows.
    comes(
        teller,
        "both are admitted",
        ("tenant", &cast.tenant),
        ("TenantAdmittedRegistration", 2),
        PROCESSORS,
    )
    .await?;
    comes(
        teller,
        "Bob is a user",
        ("user", &cast.bob),
        ("UserRegistered", 1),
        PROCESSORS,
    )
    .await
}

async fn share(teller: &mut Teller<'_>, cast: &Cast) -> Result<(), Problem> {
    for (what, user, name) in [
        ("Ada has a public profile", &cast.ada, "Ada"),
        ("Bob has one", &cast.bob, "Bob"),
    ] {
        let profile = CreateProfile {
            name: name.to_owned(),
            public: true,
        };
        teller.tell(what, user, &profile).await?;
    }
    let follow = FollowProfile {
        follower_id: cast.bob.clone(),
    };
    teller.tell("Bob follows Ada", &cast.ada, &follow).await?;
    for (what, card, title) in [
        ("Ada adds a card", &cast.outbox, "The outbox pattern"),
        ("Ada adds another one", &cast.saga, "Sagas"),
    ] {
        let add = AddCardToLibrary {
            curator_id: cast.ada.clone(),
            card_type: "article".to_owned(),
            url: format!("https://example.org/{card}"),
            title: title.to_owned(),
            description: String::new(),
        };
        teller.tell(what, card, &add).await?;
    }
    for (what, owner, collection, name) in [
        (
            "Ada begins a collection",
            &cast.ada,
            &cast.reading,
            "Reading list",
        ),
        ("Bob begins one too", &cast.bob, &cast.patterns, "Patterns"),
    ] {
        let create = CreateCollection {
            owner_id: owner.clone(),
            name: name.to_owned(),
        };
        teller.tell(what, collection, &create).await?;
    }
    for (what, collection, card) in [
        ("Ada's gets the first card", &cast.reading, &cast.outbox),
        ("so does Bob's", &cast.patterns, &cast.outbox),
        ("and the second one", &cast.patterns, &cast.saga),
    ] {
        let into = AddCardToCollection {
            card_id: card.clone(),
        };
        teller.tell(what, collection, &into).await?;
    }
    let announced = ("ProfileCardAnnounced", 2);
    let ada = ("profile", cast.ada.as_str());
    comes(
        teller,
        "Ada's followers hear of both cards",
        ada,
        announced,
        PROCESSORS,
    )
    .await?;
    for (what, user) in [
        ("Ada's first collection is greeted", &cast.ada),
        ("Bob's too", &cast.bob),
    ] {
        let greeted = ("ProfileFirstCollectionStarted", 1);
        comes(teller, what, ("profile", user), greeted, PROCESSORS).await?;
    }
    Ok(())
}

async fn are_told(teller: &mut Teller<'_>, cast: &Cast) -> Result<(), Problem> {
    let mut requested = [(&cast.ada, 0), (&cast.bob, 0)];
    for (what, of, kind, times) in [
        ("Ada is welcomed", 0, "welcome", 1),
        ("Bob is welcomed", 1, "welcome", 1),
        ("Bob hears of Ada's cards", 1, "card_added", 2),
        ("Ada is greeted as a collector", 0, "collection_welcome", 1),
        ("Bob too", 1, "collection_welcome", 1),
        ("Ada hears that both orders came in", 0, "order_placed", 2),
        ("and that she paid one", 0, "payment_received", 1),
        ("Bob hears that his order came in", 1, "order_placed", 1),
        ("and that he paid it", 1, "payment_received", 1),
        ("and that his parcel left", 1, "order_shipped", 1),
    ] {
        let (id, sum) = &mut requested[of];
        *sum += times;
        let outcome = Outcome {
            what,
            aggregate: "recipient",
            id,
            event: format!("NotificationRequested of kind {kind}"),
            is: &|event| event.event_type == "NotificationRequested" && event.data["kind"] == kind,
            times,
            takes: ADAPTER,
        };
        teller.until(outcome).await?;
    }
    for ((id, times), what) in requested.into_iter().zip([
        "each of Ada's messages went out, or it is known why not",
        "each of Bob's too",
    ]) {
        let outcome = Outcome {
            what,
            aggregate: "recipient",
            id,
            event: DELIVERED.join(" or "),
            is: &|event| DELIVERED.contains(&event.event_type.as_str()),
            times,
            takes: ADAPTER,
        };
        teller.until(outcome).await?;
    }
    Ok(())
}

/// Waits for so many events of one type.
pub(super) async fn comes(
    teller: &mut Teller<'_>,
    what: &'static str,
    (aggregate, id): (&'static str, &str),
    (event, times): (&'static str, usize),
    takes: &'static str,
) -> Result<(), Problem> {
    let outcome = Outcome {
        what,
        aggregate,
        id,
        event: event.to_owned(),
        is: &|found: &HistoryEntry| found.event_type == event,
        times,
        takes,
    };
    teller.until(outcome).await
}
