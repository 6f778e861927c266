//! The flows of a registration on a topology without a broker: what each event leads to, and that it leads to it once.

use std::time::Duration;

use millrace::command::CommandSet;
use millrace::testing::topology::TopologyLog;
use schemas::identity::email::*;
use schemas::identity::registration::*;
use schemas::identity::tenant::*;
use schemas::identity::user::*;
use schemas::identity::workspace::*;

fn log() -> TopologyLog {
    TopologyLog::new(&processors::topology(), &schemas::all())
}

/// The commands to one type of aggregate since the last call: to whom and what.
fn drained<C: CommandSet>(log: &mut TopologyLog) -> Vec<(String, C)> {
    let emitted = log.drain::<C>().into_iter();
    emitted.map(|one| (one.aggregate_id, one.command)).collect()
}

fn to<C, const N: usize>(id: &str, commands: [C; N]) -> Vec<(String, C)> {
    commands.map(|command| (id.to_owned(), command)).into()
}

/// That nothing was emitted which was not drained.
#[track_caller]
fn nothing_more(log: &mut TopologyLog) {
    assert_eq!(drained::<EmailCommand>(log), []);
    assert_eq!(drained::<TenantCommand>(log), []);
    assert_eq!(drained::<WorkspaceCommand>(log), []);
    assert_eq!(drained::<UserCommand>(log), []);
    assert_eq!(drained::<RegistrationCommand>(log), []);
}

fn address() -> String {
    email_id("acme", "ada@example.com")
}

fn started() -> RegistrationStarted {
    RegistrationStarted {
        tenant_id: "acme".into(),
        tenant_name: Some("Acme".into()),
        email: "ada@example.com".into(),
        user_id: "u1".into(),
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        phone: None,
        timezone: None,
        language: Some("en".into()),
        workspace_id: "w1".into(),
        workspace_name: "Home".into(),
        credential_id: Some("c1".into()),
    }
}

fn claim() -> EmailCommand {
    ClaimEmail {
        tenant_id: "acme".into(),
        email: "ada@example.com".into(),
        registration_id: "r1".into(),
        user_id: "u1".into(),
    }
    .into()
}

fn release() -> EmailCommand {
    ReleaseEmail {
        registration_id: "r1".into(),
    }
    .into()
}

fn refused(give_back: &[Holding]) -> RegistrationRefused {
    RegistrationRefused {
        step: RegistrationStep::User,
        reason: "late".into(),
        tenant_id: "acme".into(),
        email: "ada@example.com".into(),
        workspace_id: "w1".into(),
        give_back: give_back.to_vec(),
    }
}

fn taken(step: RegistrationStep, tenant_created: bool) -> RegistrationCommand {
    RecordStep {
        step,
        tenant_created,
    }
    .into()
}

fn refusal(step: RegistrationStep) -> RegistrationCommand {
    RecordRefusal {
        step,
        reason: "late".into(),
    }
    .into()
}

#[test]
fn a_registration_asks_for_the_address_then_the_tenant_then_the_workspace_then_the_user() {
    let mut log = log();
    log.pipe::<RegistrationEvent>("r1", started());
    assert_eq!(drained::<EmailCommand>(&mut log), to(&address(), [claim()]));
    nothing_more(&mut log);

    let claimed = RegistrationEmailClaimed {
        tenant_id: "acme".into(),
        tenant_name: Some("Acme".into()),
    };
    log.pipe::<RegistrationEvent>("r1", claimed);
    let admit = AdmitRegistration {
        registration_id: "r1".into(),
        tenant_name: Some("Acme".into()),
    };
    assert_eq!(
        drained::<TenantCommand>(&mut log),
        to("acme", [admit.into()])
    );
    nothing_more(&mut log);

    let admitted = RegistrationAdmitted {
        tenant_id: "acme".into(),
        tenant_created: true,
        user_id: "u1".into(),
        workspace_id: "w1".into(),
        workspace_name: "Home".into(),
    };
    log.pipe::<RegistrationEvent>("r1", admitted);
    let create = CreateWorkspace {
        tenant_id: "acme".into(),
        name: "Home".into(),
        owner_id: "u1".into(),
        registration_id: Some("r1".into()),
    };
    assert_eq!(
        drained::<WorkspaceCommand>(&mut log),
        to("w1", [create.into()])
    );
    nothing_more(&mut log);
}

#[test]
fn the_user_is_created_with_all_that_the_registration_knows() {
    let mut log = log();
    let workspace_created = RegistrationWorkspaceCreated {
        tenant_id: "acme".into(),
        user_id: "u1".into(),
        email: "ada@example.com".into(),
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        phone: Some("+4930123456".into()),
        timezone: Some("Europe/London".into()),
        language: Some("en".into()),
        credential_id: Some("c1".into()),
        role: UserRole::Admin,
    };
    log.pipe::<RegistrationEvent>("r1", workspace_created);
    let create = CreateUser {
        tenant_id: "acme".into(),
        registration_id: "r1".into(),
        email: "ada@example.com".into(),
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        phone: Some("+4930123456".into()),
        timezone: Some("Europe/London".into()),
        language: Some("en".into()),
        credential_id: Some("c1".into()),
        role: UserRole::Admin,
    };
    assert_eq!(drained::<UserCommand>(&mut log), to("u1", [create.into()]));
    nothing_more(&mut log);
}

#[test]
fn the_registration_hears_what_each_of_the_four_answers() {
    let mut log = log();
    let (registration_id, reason) = (|| "r1".to_owned(), || "late".to_owned());
    let claimed = EmailClaimed {
        tenant_id: "acme".into(),
        email: "ada@example.com".into(),
        registration_id: registration_id(),
        user_id: "u1".into(),
    };
    let heard = |log: &mut TopologyLog| {
        let heard = drained::<RegistrationCommand>(log);
        nothing_more(log);
        heard
    };
    log.pipe::<EmailEvent>(&address(), claimed);
    let answer = taken(RegistrationStep::Email, false);
    assert_eq!(heard(&mut log), to("r1", [answer]));
    let taken_by_another = EmailClaimRefused {
        registration_id: registration_id(),
        reason: reason(),
    };
    log.pipe::<EmailEvent>(&address(), taken_by_another);
    assert_eq!(
        heard(&mut log),
        to("r1", [refusal(RegistrationStep::Email)])
    );

    for tenant_created in [true, false] {
        let admitted = TenantAdmittedRegistration {
            registration_id: registration_id(),
            tenant_created,
        };
        log.pipe::<TenantEvent>("acme", admitted);
        let answer = taken(RegistrationStep::Tenant, tenant_created);
        assert_eq!(heard(&mut log), to("r1", [answer]));
    }
    let closed = TenantRefusedRegistration {
        registration_id: registration_id(),
        reason: reason(),
    };
    log.pipe::<TenantEvent>("acme", closed);
    assert_eq!(
        heard(&mut log),
        to("r1", [refusal(RegistrationStep::Tenant)])
    );

    let created = WorkspaceCreated {
        tenant_id: "acme".into(),
        name: "Home".into(),
        registration_id: Some(registration_id()),
    };
    log.pipe::<WorkspaceEvent>("w1", created);
    let answer = taken(RegistrationStep::Workspace, false);
    assert_eq!(heard(&mut log), to("r1", [answer]));
    let anothers = WorkspaceCreationRefused {
        registration_id: registration_id(),
        reason: reason(),
    };
    log.pipe::<WorkspaceEvent>("w1", anothers);
    let answer = refusal(RegistrationStep::Workspace);
    assert_eq!(heard(&mut log), to("r1", [answer]));

    let registered = UserRegistered {
        tenant_id: "acme".into(),
        registration_id: registration_id(),
        email: "ada@example.com".into(),
        first_name: "Ada".into(),
        last_name: String::new(),
        phone: None,
        timezone: None,
        language: None,
        credential_id: None,
        role: UserRole::Member,
    };
    log.pipe::<UserEvent>("u1", registered);
    let answer = taken(RegistrationStep::User, false);
    assert_eq!(heard(&mut log), to("r1", [answer]));
    let anothers = UserRegistrationRefused {
        registration_id: registration_id(),
        reason: reason(),
    };
    log.pipe::<UserEvent>("u1", anothers);
    assert_eq!(heard(&mut log), to("r1", [refusal(RegistrationStep::User)]));
}

#[test]
fn a_refused_registration_gives_back_what_it_took_and_nothing_else() {
    let mut log = log();
    log.pipe::<RegistrationEvent>("r1", refused(&[]));
    nothing_more(&mut log);

    let all = [Holding::Workspace, Holding::Tenant, Holding::Email];
    log.pipe::<RegistrationEvent>("r1", refused(&all));
    let (registration_id, reason) = (|| "r1".to_owned(), "late".to_owned());
    let workspace = WithdrawWorkspace {
        registration_id: registration_id(),
        reason,
    };
    let tenant = WithdrawAdmission {
        registration_id: registration_id(),
    };
    assert_eq!(
        drained::<WorkspaceCommand>(&mut log),
        to("w1", [workspace.into()])
    );
    assert_eq!(
        drained::<TenantCommand>(&mut log),
        to("acme", [tenant.into()])
    );
    assert_eq!(
        drained::<EmailCommand>(&mut log),
        to(&address(), [release()])
    );
    nothing_more(&mut log);
}

#[test]
fn a_release_follows_the_claim_that_it_gives_back() {
    let mut log = log();
    log.pipe::<RegistrationEvent>("r1", started());
    log.pipe::<RegistrationEvent>("r1", refused(&[Holding::Email]));
    assert_eq!(
        drained::<EmailCommand>(&mut log),
        to(&address(), [claim(), release()])
    );
}

#[test]
fn a_registration_out_of_time_takes_its_user_back_and_nothing_else_yet() {
    let mut log = log();
    let overdue = RegistrationOverdue {
        user_id: "u1".into(),
        reason: "late".into(),
    };
    log.pipe::<RegistrationEvent>("r1", overdue);
    let withdraw = WithdrawUser {
        registration_id: "r1".into(),
        reason: "late".into(),
    };
    assert_eq!(
        drained::<UserCommand>(&mut log),
        to("u1", [withdraw.into()])
    );
    nothing_more(&mut log);
}

#[test]
fn a_deactivated_users_address_is_released() {
    let mut log = log();
    let deactivated = UserDeactivated {
        reason: "left".into(),
        tenant_id: "acme".into(),
        email: "ada@example.com".into(),
        registration_id: "r1".into(),
    };
    log.pipe::<UserEvent>("u1", deactivated);
    assert_eq!(
        drained::<EmailCommand>(&mut log),
        to(&address(), [release()])
    );
    nothing_more(&mut log);
}

#[test]
fn what_is_no_registrations_business_leads_to_nothing() {
    let mut log = log();
    let (tenant_id, name) = (|| "acme".to_owned(), || "Home".to_owned());
    let own = WorkspaceCreated {
        tenant_id: tenant_id(),
        name: name(),
        registration_id: None,
    };
    let completed = RegistrationCompleted {
        tenant_id: tenant_id(),
        email: "ada@example.com".into(),
        user_id: "u1".into(),
        workspace_id: "w1".into(),
    };
    let registration_id = "r1".to_owned();
    log.pipe::<WorkspaceEvent>("w2", own);
    log.pipe::<RegistrationEvent>("r1", completed);
    log.pipe::<TenantEvent>("acme", TenantUpdated { name: name() });
    log.pipe::<UserEvent>(
        "u1",
        UserActivated {
            tenant_id: "acme".into(),
        },
    );
    log.pipe::<EmailEvent>(&address(), EmailReleased { registration_id });
    nothing_more(&mut log);
}

#[test]
fn a_replay_repeats_each_command_under_its_id() {
    let mut log = log();
    log.pipe::<RegistrationEvent>("r1", started());
    log.pipe::<RegistrationEvent>("r1", refused(&[Holding::Email]));
    let ids = |log: &mut TopologyLog| -> Vec<_> {
        let emitted = log.drain::<EmailCommand>().into_iter();
        emitted.map(|one| one.id).collect()
    };
    let first = ids(&mut log);
    for partition in 0..3 {
        log.reset("registration-steps", partition, 0);
    }
    log.advance(Duration::from_secs(60));
    assert_eq!(first.len(), 2);
    assert_eq!(ids(&mut log), first);
}
