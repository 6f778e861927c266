//! What a tenant does, and what it refuses.

use super::*;
use millrace::testing::given;

fn acme() -> TenantEvent {
    created("Acme".into(), Plan::Standard, None)
}

/// A tenant that came with registration `r1`.
fn brought() -> [TenantEvent; 2] {
    [
        created("Acme".into(), Plan::Free, Some("r1".into())),
        admitted("r1", true),
    ]
}

fn create(name: &str) -> CreateTenant {
    CreateTenant {
        name: name.into(),
        plan: Plan::Standard,
    }
}

fn admit(registration: &str) -> AdmitRegistration {
    AdmitRegistration {
        registration_id: registration.into(),
        tenant_name: Some("Acme".into()),
    }
}

fn admitted(registration: &str, tenant_created: bool) -> TenantEvent {
    TenantAdmittedRegistration {
        registration_id: registration.into(),
        tenant_created,
    }
    .into()
}

fn withdraw(registration: &str) -> WithdrawAdmission {
    WithdrawAdmission {
        registration_id: registration.into(),
    }
}

fn withdrawn(registration: &str) -> TenantEvent {
    TenantWithdrawn {
        registration_id: registration.into(),
    }
    .into()
}

fn deactivated() -> TenantEvent {
    TenantDeactivated {
        reason: "left".into(),
    }
    .into()
}

#[test]
fn a_tenant_is_created_once_and_the_same_again_changes_nothing() {
    given::<Tenant>([]).when(create("Acme")).then([acme()]);
    given::<Tenant>([acme()])
        .when(create("Acme"))
        .then_nothing();
    given::<Tenant>([acme()])
        .when(create("Globex"))
        .then_rejected(Rejection::Exists {
            name: "Acme".into(),
        });
}

#[test]
fn name_and_plan_change_and_the_same_again_changes_nothing() {
    let name = || "Acme Ltd".to_owned();
    let plan = Plan::Enterprise;
    given::<Tenant>([acme()])
        .when(UpdateTenant { name: name() })
        .then([TenantUpdated { name: name() }.into()]);
    given::<Tenant>([acme(), TenantUpdated { name: name() }.into()])
        .when(UpdateTenant { name: name() })
        .then_nothing();
    given::<Tenant>([acme()])
        .when(ChangeTenantPlan { plan })
        .then([TenantPlanChanged { plan }.into()]);
    given::<Tenant>([acme(), TenantPlanChanged { plan }.into()])
        .when(ChangeTenantPlan { plan })
        .then_nothing();
}

#[test]
fn a_deactivated_tenant_takes_no_action_and_no_registration() {
    let leave = DeactivateTenant {
        reason: "left".into(),
    };
    let history = [acme(), deactivated()];
    given::<Tenant>([acme()])
        .when(leave.clone())
        .then([deactivated()]);
    given::<Tenant>(history.clone()).when(leave).then_nothing();
    let name = "Acme Ltd".to_owned();
    for action in [
        TenantCommand::from(create("Acme")),
        UpdateTenant { name }.into(),
        ChangeTenantPlan { plan: Plan::Free }.into(),
    ] {
        given::<Tenant>(history.clone())
            .when(action)
            .then_rejected(Rejection::Deactivated);
    }
    given::<Tenant>(history)
        .when(admit("r1"))
        .then([TenantRefusedRegistration {
            registration_id: "r1".into(),
            reason: "the tenant is deactivated".into(),
        }
        .into()]);
}

#[test]
fn nothing_happens_in_a_tenant_that_is_not_there() {
    let name = "Acme".to_owned();
    let reason = "left".to_owned();
    for early in [
        TenantCommand::from(UpdateTenant { name }),
        ChangeTenantPlan { plan: Plan::Free }.into(),
        DeactivateTenant { reason }.into(),
    ] {
        given::<Tenant>([])
            .when(early)
            .then_rejected(Rejection::Unknown);
    }
}

#[test]
fn a_registration_brings_a_tenant_that_is_new_and_is_admitted_to_one_that_is_there() {
    given::<Tenant>([]).when(admit("r1")).then(brought());
    given::<Tenant>(brought())
        .when(admit("r2"))
        .then([admitted("r2", false)]);
    given::<Tenant>(brought())
        .when(admit("r1"))
        .then([admitted("r1", true)]);
}

#[test]
fn a_new_tenant_without_a_name_is_called_by_its_id() {
    let nameless = AdmitRegistration {
        tenant_name: None,
        ..admit("r1")
    };
    given::<Tenant>([]).id("acme").when(nameless).then([
        created("acme".into(), Plan::Free, Some("r1".into())),
        admitted("r1", true),
    ]);
}

#[test]
fn a_tenant_goes_with_the_registration_that_brought_it_and_can_be_brought_again() {
    given::<Tenant>(brought())
        .when(withdraw("r1"))
        .then([withdrawn("r1")]);
    let gone = [brought().to_vec(), vec![withdrawn("r1")]].concat();
    given::<Tenant>(gone.clone())
        .when(withdraw("r1"))
        .then_nothing();
    let again = [
        created("Acme".into(), Plan::Free, Some("r2".into())),
        admitted("r2", true),
    ];
    given::<Tenant>(gone.clone())
        .when(admit("r2"))
        .then(again.clone());
    given::<Tenant>([gone, again.to_vec()].concat())
        .when(withdraw("r1"))
        .then_nothing();
}

#[test]
fn a_tenant_on_which_others_rest_is_not_taken_back() {
    let name = "Acme Ltd".to_owned();
    for since in [
        admitted("r2", false),
        TenantUpdated { name }.into(),
        TenantPlanChanged {
            plan: Plan::Standard,
        }
        .into(),
    ] {
        given::<Tenant>([brought().to_vec(), vec![since]].concat())
            .when(withdraw("r1"))
            .then_nothing();
    }
    given::<Tenant>([acme(), admitted("r1", false)])
        .when(withdraw("r1"))
        .then_nothing();
}

#[test]
fn a_tenants_id_leaves_room_for_its_addresses_ids() {
    let field = "tenant_id";
    given::<Tenant>([])
        .id(&"t".repeat(129))
        .when(create("Acme"))
        .then_rejected(BadField::TooLong { field, max: 128 }.into());
}
