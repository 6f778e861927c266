//! What a registration does, and what it refuses.

use super::*;
use RegistrationStep::{Email, Tenant, User, Workspace};
use millrace::testing::given;

/// All that a registration can hold, in the order to give it back.
const ALL: [Holding; 3] = [Holding::Workspace, Holding::Tenant, Holding::Email];

fn register() -> RegisterUser {
    RegisterUser {
        tenant_id: "acme".into(),
        tenant_name: Some("Acme".into()),
        email: " Ada@Example.com".into(),
        user_id: None,
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        phone: Some("+4930123456".into()),
        timezone: Some("Europe/London".into()),
        language: Some("en".into()),
        workspace_name: None,
        credential_id: Some("c1".into()),
    }
}

fn begun() -> RegistrationStarted {
    RegistrationStarted {
        tenant_id: "acme".into(),
        tenant_name: Some("Acme".into()),
        email: "ada@example.com".into(),
        user_id: "1".into(),
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        phone: Some("+4930123456".into()),
        timezone: Some("Europe/London".into()),
        language: Some("en".into()),
        workspace_id: "1".into(),
        workspace_name: "Ada Lovelace".into(),
        credential_id: Some("c1".into()),
    }
}

fn email_claimed() -> RegistrationEvent {
    RegistrationEmailClaimed {
        tenant_id: "acme".into(),
        tenant_name: Some("Acme".into()),
    }
    .into()
}

fn admitted(tenant_created: bool) -> RegistrationEvent {
    RegistrationAdmitted {
        tenant_id: "acme".into(),
        tenant_created,
        user_id: "1".into(),
        workspace_id: "1".into(),
        workspace_name: "Ada Lovelace".into(),
    }
    .into()
}

fn workspace_created(role: UserRole) -> RegistrationEvent {
    RegistrationWorkspaceCreated {
        tenant_id: "acme".into(),
        user_id: "1".into(),
        email: "ada@example.com".into(),
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        phone: Some("+4930123456".into()),
        timezone: Some("Europe/London".into()),
        language: Some("en".into()),
        credential_id: Some("c1".into()),
        role,
    }
    .into()
}

fn overdue() -> RegistrationEvent {
    RegistrationOverdue {
        user_id: "1".into(),
        reason: OVERDUE.into(),
    }
    .into()
}

fn completed() -> RegistrationEvent {
    RegistrationCompleted {
        tenant_id: "acme".into(),
        email: "ada@example.com".into(),
        user_id: "1".into(),
        workspace_id: "1".into(),
    }
    .into()
}

fn ended(step: RegistrationStep, reason: &str, give_back: &[Holding]) -> RegistrationEvent {
    RegistrationRefused {
        step,
        reason: reason.into(),
        tenant_id: "acme".into(),
        email: "ada@example.com".into(),
        workspace_id: "1".into(),
        give_back: give_back.to_vec(),
    }
    .into()
}

/// The events until the answer to this step is awaited, of a registration that brought its tenant.
fn awaiting(step: RegistrationStep) -> Vec<RegistrationEvent> {
    let all = [
        begun().into(),
        email_claimed(),
        admitted(true),
        workspace_created(UserRole::Admin),
    ];
    all[..=step as usize].to_vec()
}

fn then(mut events: Vec<RegistrationEvent>, last: RegistrationEvent) -> Vec<RegistrationEvent> {
    events.push(last);
    events
}

fn taken(step: RegistrationStep) -> RecordStep {
    RecordStep {
        step,
        tenant_created: step == Tenant,
    }
}

fn refusal(step: RegistrationStep) -> RecordRefusal {
    RecordRefusal {
        step,
        reason: "taken".into(),
    }
}

#[test]
fn a_registration_is_the_user_and_the_workspace_of_its_own_id_unless_another_user_is_named() {
    given::<Registration>([])
        .when(register())
        .then([begun().into()]);
    let named = RegisterUser {
        user_id: Some("ada".into()),
        workspace_name: Some("Home".into()),
        ..register()
    };
    let expected = RegistrationStarted {
        user_id: "ada".into(),
        workspace_name: "Home".into(),
        ..begun()
    };
    given::<Registration>([])
        .when(named)
        .then([expected.into()]);
}

#[test]
fn a_repeated_registration_changes_nothing_also_with_another_hash_of_the_password() {
    let again = RegisterUser {
        credential_id: Some("c2".into()),
        ..register()
    };
    given::<Registration>([begun().into()])
        .when(again.clone())
        .then_nothing();
    given::<Registration>(then(awaiting(User), completed()))
        .when(again)
        .then_nothing();
}

#[test]
fn another_registration_under_the_same_id_is_rejected() {
    let other = RegisterUser {
        email: "bob@example.com".into(),
        ..register()
    };
    given::<Registration>([begun().into()])
        .when(other)
        .then_rejected(Rejection::Other);
}

#[test]
fn what_a_later_step_could_not_take_is_rejected_at_once() {
    let field = "tenant_id";
    let max = 128;
    given::<Registration>([])
        .when(RegisterUser {
            tenant_id: "t".repeat(129),
            ..register()
        })
        .then_rejected(BadField::TooLong { field, max }.into());
    given::<Registration>([])
        .when(RegisterUser {
            user_id: Some("u\n".into()),
            ..register()
        })
        .then_rejected(BadField::Control("user_id").into());
    given::<Registration>([])
        .when(RegisterUser {
            first_name: " ".into(),
            ..register()
        })
        .then_rejected(BadField::Empty("first_name").into());
    given::<Registration>([])
        .when(RegisterUser {
            email: "ada".into(),
            ..register()
        })
        .then_rejected(
            BadField::NotA {
                field: "email",
                expected: "an address such as ada@example.com, in ASCII",
            }
            .into(),
        );
}

#[test]
fn step_by_step_it_comes_to_its_user() {
    for (step, event) in [
        (Email, email_claimed()),
        (Tenant, admitted(true)),
        (Workspace, workspace_created(UserRole::Admin)),
        (User, completed()),
    ] {
        given::<Registration>(awaiting(step))
            .when(taken(step))
            .then([event]);
    }
}

#[test]
fn whoever_comes_into_a_tenant_that_was_there_is_a_member() {
    let joins = RecordStep {
        step: Tenant,
        tenant_created: false,
    };
    given::<Registration>(awaiting(Tenant))
        .when(joins)
        .then([admitted(false)]);
    given::<Registration>([begun().into(), email_claimed(), admitted(false)])
        .when(taken(Workspace))
        .then([workspace_created(UserRole::Member)]);
}

#[test]
fn a_refused_step_ends_it_and_what_it_took_before_is_given_back_backwards() {
    for (step, give_back) in [
        (Email, &[][..]),
        (Tenant, &[Holding::Email]),
        (Workspace, &ALL[1..]),
        (User, &ALL),
    ] {
        given::<Registration>(awaiting(step))
            .when(refusal(step))
            .then([ended(step, "taken", give_back)]);
    }
}

#[test]
fn out_of_time_what_may_have_been_taken_is_given_back_too() {
    for (step, give_back) in [
        (Email, &ALL[2..]),
        (Tenant, &ALL[1..]),
        (Workspace, &ALL[..]),
    ] {
        given::<Registration>(awaiting(step))
            .when(ExpireRegistration {})
            .then([ended(step, OVERDUE, give_back)]);
    }
}

#[test]
fn out_of_time_before_the_user_answered_the_user_is_taken_back_before_the_address_is() {
    given::<Registration>(awaiting(User))
        .when(ExpireRegistration {})
        .then([overdue()]);
    let withdrawing = then(awaiting(User), overdue());
    // The user came after all; the answer to the withdrawal is on its way behind this one.
    given::<Registration>(withdrawing.clone())
        .when(taken(User))
        .then_nothing();
    given::<Registration>(withdrawing.clone())
        .when(refusal(User))
        .then([ended(User, "taken", &ALL)]);
    // No answer for as long again: it asks again.
    given::<Registration>(withdrawing)
        .when(ExpireRegistration {})
        .then([overdue()]);
}

#[test]
fn an_answer_that_comes_again_or_after_the_end_changes_nothing() {
    let refused = ended(Tenant, "taken", &ALL[2..]);
    for history in [
        then(awaiting(User), completed()),
        then(awaiting(Tenant), refused),
    ] {
        for step in [Email, Tenant, Workspace, User] {
            for answer in [
                RegistrationCommand::from(taken(step)),
                refusal(step).into(),
                ExpireRegistration {}.into(),
            ] {
                given::<Registration>(history.clone())
                    .when(answer)
                    .then_nothing();
            }
        }
    }
    given::<Registration>(awaiting(Workspace))
        .when(taken(Email))
        .then_nothing();
    given::<Registration>(awaiting(Workspace))
        .when(refusal(Tenant))
        .then_nothing();
}

#[test]
fn an_answer_before_its_question_is_rejected() {
    given::<Registration>([])
        .when(taken(Email))
        .then_rejected(Rejection::Unknown);
    given::<Registration>([])
        .when(ExpireRegistration {})
        .then_rejected(Rejection::Unknown);
    given::<Registration>(awaiting(Email))
        .when(taken(User))
        .then_rejected(Rejection::NotAsked(User));
    given::<Registration>(awaiting(Tenant))
        .when(refusal(Workspace))
        .then_rejected(Rejection::NotAsked(Workspace));
}

#[test]
fn the_time_runs_from_the_start_and_again_from_each_request_to_take_the_user_back() {
    let minutes = std::time::Duration::from_secs(600);
    let set = TimerChange::set("limit", minutes, ExpireRegistration {});
    assert_eq!(
        Registration::timers(&begun().into()),
        std::slice::from_ref(&set)
    );
    assert_eq!(Registration::timers(&overdue()), [set]);
    for end in [completed(), ended(Email, "taken", &[])] {
        assert_eq!(Registration::timers(&end), [TimerChange::cancel("limit")]);
    }
    for step in [
        email_claimed(),
        admitted(true),
        workspace_created(UserRole::Admin),
    ] {
        assert_eq!(Registration::timers(&step), []);
    }
}
