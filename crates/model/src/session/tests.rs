//! What each transition allows and refuses.

use super::*;

const T0: UnixSeconds = UnixSeconds(1_000);

#[test]
fn a_task_lives_until_its_time_has_passed() {
    let task = SessionState::start_task(T0, 60);
    assert!(task.is_live(T0 + 59));
    assert!(!task.is_live(T0 + 60), "the end itself is already too late");
    assert_eq!(task.expire(T0 + 59), Err(TransitionError::NotDue));
    assert_eq!(task.expire(T0 + 60).unwrap().status, SessionStatus::Expired);
}

#[test]
fn a_task_without_positive_time_is_dead() {
    for ttl_seconds in [None, Some(0), Some(-5)] {
        let task = SessionState {
            ttl_seconds,
            ..SessionState::start_task(T0, 60)
        };
        assert!(!task.is_live(T0), "{ttl_seconds:?}");
    }
}

#[test]
fn a_service_without_deadline_is_dead() {
    let service = SessionState {
        heartbeat_deadline_at: None,
        ..SessionState::start_service(T0, 60)
    };
    assert!(!service.is_live(T0));
}

#[test]
fn a_service_lives_as_long_as_it_is_renewed() {
    let service = SessionState::start_service(T0, 120);
    let renewed = service.renew_lease(T0 + 119, 120).unwrap();
    assert!(renewed.is_live(T0 + 238));
    assert_eq!(service.renew_lease(T0 + 120, 120), Err(TransitionError::Lapsed));
    assert!(
        service.suspend().is_ok(),
        "a service that lost its lease is suspended"
    );
}

#[test]
fn a_suspended_session_may_not_act_until_resumed() {
    let suspended = SessionState::start_task(T0, 60).suspend().unwrap();
    assert!(!suspended.is_live(T0));
    assert_eq!(suspended.suspend(), Err(TransitionError::NotActive));
    assert!(suspended.resume(T0 + 10, 120).unwrap().is_live(T0 + 10));
    assert_eq!(
        suspended.resume(T0 + 60, 120),
        Err(TransitionError::Lapsed),
        "time runs while suspended"
    );
}

#[test]
fn resuming_a_service_arms_a_fresh_lease() {
    let suspended = SessionState::start_service(T0, 120).suspend().unwrap();
    assert!(suspended.resume(T0 + 500, 120).unwrap().is_live(T0 + 600));
}

#[test]
fn nothing_leads_out_of_an_ended_session() {
    for ended in [
        SessionState::start_task(T0, 60).terminate().unwrap(),
        SessionState::start_task(T0, 60).expire(T0 + 60).unwrap(),
    ] {
        let refused = Err(TransitionError::Ended(ended.status));
        assert_eq!(ended.suspend(), refused);
        assert_eq!(ended.resume(T0, 120), refused);
        assert_eq!(ended.terminate(), refused);
        assert_eq!(ended.expire(T0 + 60), refused);
        assert_eq!(ended.renew_lease(T0, 120), refused);
        assert!(!ended.is_live(T0));
    }
}

#[test]
fn a_session_dies_with_the_record_of_its_user() {
    let session = |subject| GovernedSession {
        id: "s1".parse().unwrap(),
        zone_id: "z1".parse().unwrap(),
        application_id: "app-1".parse().unwrap(),
        subject_authority_record_id: "a1".parse().unwrap(),
        subject,
        state: SessionState::start_task(T0, 60),
    };
    let zone = "z1".parse().unwrap();
    assert!(session(SubjectAuthority::Application).is_live(&zone, T0));
    assert!(
        session(SubjectAuthority::User {
            live_until: Some(T0 + 1)
        })
        .is_live(&zone, T0)
    );
    assert!(!session(SubjectAuthority::User { live_until: Some(T0) }).is_live(&zone, T0));
    assert!(!session(SubjectAuthority::User { live_until: None }).is_live(&zone, T0));
    assert!(!session(SubjectAuthority::Application).is_live(&"z2".parse().unwrap(), T0));
}

#[test]
fn names_are_read_as_they_are_written() {
    for status in [
        SessionStatus::Active,
        SessionStatus::Suspended,
        SessionStatus::Terminated,
        SessionStatus::Expired,
    ] {
        assert_eq!(status.as_str().parse(), Ok(status));
    }
    for lifecycle in [Lifecycle::Task, Lifecycle::Service] {
        assert_eq!(lifecycle.as_str().parse(), Ok(lifecycle));
    }
    assert!("dormant".parse::<SessionStatus>().is_err());
    assert!("Task".parse::<Lifecycle>().is_err());
}
