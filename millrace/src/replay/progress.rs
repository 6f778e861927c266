//! How far a replay is: the plan beside where the handlers stand.

use std::collections::BTreeMap;

use super::store::{Stored, StoredHandler};
use super::{HandlerReplay, PartitionReplay, Replay, ReplayError, Way, http};
use crate::config::KafkaConfig;
use crate::projection::ops::ends_and_rest;
use crate::stats::{HandlerKind, Placed, Position};

/// As it begins: nothing is delivered yet.
pub(super) fn planned(stored: Stored) -> Replay {
    shown(stored, |one| {
        Ok::<_, std::convert::Infallible>(one.partitions.clone())
    })
    .unwrap_or_else(|never| match never {})
}

/// As it is now. Blocks the thread.
pub(super) fn measured(
    kafka: &KafkaConfig,
    stored: Stored,
    all: &[Placed],
) -> Result<Replay, ReplayError> {
    let id = stored.id;
    shown(stored, |one| {
        let mut partitions = one.partitions.clone();
        if one.done {
            spread(&mut partitions, 0);
        } else if one.kind == HandlerKind::View {
            spread(&mut partitions, one.rebuild_left.unwrap_or(0));
        } else {
            let of_group = all.iter().filter(|(_, group, _)| *group == one.group);
            let standing: BTreeMap<(&str, i32), &Position> = of_group
                .map(|(_, _, at)| ((at.topic.as_str(), at.partition), at))
                .collect();
            for partition in &mut partitions {
                let place = (partition.topic.as_str(), partition.partition);
                let Some(at) = standing.get(&place) else {
                    continue;
                };
                // An effect went back when the replay was written down; a processor's offset says whether it did.
                partition.begun = one.kind == HandlerKind::Effect || at.handled.replay == Some(id);
                if partition.begun {
                    partition.left = (partition.to - at.next.max(partition.from)).max(0);
                }
            }
            without_markers(kafka, &mut partitions)?;
        }
        Ok(partitions)
    })
}

/// A transaction's marker is an offset that nobody is given: where no record is left, nothing is.
fn without_markers(
    kafka: &KafkaConfig,
    partitions: &mut [PartitionReplay],
) -> Result<(), ReplayError> {
    let behind = partitions.iter().filter(|one| one.begun && one.left > 0);
    let places: Vec<(String, i32, i64)> = behind
        .map(|one| (one.topic.clone(), one.partition, one.to - one.left))
        .collect();
    if places.is_empty() {
        return Ok(());
    }
    let ends = ends_and_rest(kafka, &places)?;
    for one in partitions.iter_mut().filter(|one| one.begun) {
        let place = ((one.topic.clone(), one.partition), one.to - one.left);
        let end = ends.get(&place);
        // A record behind the window is none of it, whenever it came.
        if end.is_some_and(|end| end.first.is_none_or(|first| first >= one.to)) {
            one.left = 0;
        }
    }
    Ok(())
}

fn shown<E>(
    stored: Stored,
    partitions: impl Fn(&StoredHandler) -> Result<Vec<PartitionReplay>, E>,
) -> Result<Replay, E> {
    let mut handlers = Vec::new();
    for one in stored.handlers {
        let partitions = partitions(&one)?;
        let all: i64 = partitions.iter().map(|one| one.to - one.from).sum();
        let left: i64 = partitions.iter().map(|one| one.left).sum();
        handlers.push(HandlerReplay {
            done: partitions.iter().all(|one| one.begun && one.left == 0),
            way: match one.kind {
                HandlerKind::View => Way::Rebuild,
                HandlerKind::Processor | HandlerKind::Effect => Way::Redelivery,
            },
            silent: one.kind != HandlerKind::Processor,
            kind: one.kind,
            name: one.name,
            group: one.group,
            delivered: all - left,
            left,
            partitions,
        });
    }
    Ok(Replay {
        says: says(&handlers, stored.event_type.as_deref()),
        done: handlers.iter().all(|one| one.done),
        id: stored.id,
        event_type: stored.event_type,
        since: stored.since,
        asked_at: stored.asked_at,
        handlers,
        progress: format!("{}/{}", http::PATH, stored.id),
    })
}

/// A rebuild knows what is left of the whole only, and at least one offset is until it is swapped in.
fn spread(partitions: &mut [PartitionReplay], mut left: i64) {
    for partition in partitions.iter_mut().rev() {
        partition.begun = true;
        partition.left = left.min(partition.to - partition.from);
        left -= partition.left;
    }
}

fn says(handlers: &[HandlerReplay], event_type: Option<&str>) -> Vec<String> {
    let any = |kind| handlers.iter().any(|one| one.kind == kind);
    let mut says = Vec::new();
    if let Some(event_type) = event_type {
        says.push(format!(
            "Each partition is delivered again from its first {event_type} in the window on, with the events of other types behind it."
        ));
    }
    if any(HandlerKind::Processor) {
        says.push("Processors emit the same commands again under the same ids: a command that was answered changes nothing. Integration events are published again under the same ids.".to_owned());
    }
    if any(HandlerKind::Effect) {
        says.push(
            "Effects are silent: for an event that they were given before nothing is called again."
                .to_owned(),
        );
    }
    if any(HandlerKind::View) {
        says.push("A view is rebuilt from the start of its topics, whatever the window; readers keep the present rows until the new ones have caught up.".to_owned());
    }
    says
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Properties;
    use crate::handled::Handled;
    use chrono::Utc;
    use uuid::Uuid;

    const ID: Uuid = Uuid::from_u128(7);

    fn stored(kind: HandlerKind, rebuild_left: Option<i64>) -> Stored {
        let partition = |number: i32| PartitionReplay {
            topic: "counter.events".to_owned(),
            partition: number,
            from: 10,
            to: 30,
            begun: false,
            left: 20,
        };
        Stored {
            id: ID,
            event_type: None,
            since: Utc::now(),
            asked_at: Utc::now(),
            done: false,
            handlers: vec![StoredHandler {
                kind,
                name: "steps".to_owned(),
                group: "g".to_owned(),
                done: false,
                rebuild_left,
                partitions: vec![partition(0), partition(1)],
            }],
        }
    }

    fn placed(kind: HandlerKind, partition: i32, next: i64, replay: Option<Uuid>) -> Placed {
        let at = Position {
            name: "steps".to_owned(),
            topic: "counter.events".to_owned(),
            partition,
            next,
            handled: Handled {
                replay,
                ..Handled::default()
            },
        };
        (kind, "g".to_owned(), at)
    }

    fn of(stored: Stored, all: &[Placed]) -> (i64, i64, bool) {
        // Kafka is asked only about what is begun and behind, which is nothing here.
        let nowhere = KafkaConfig {
            kafka_bootstrap: "nowhere:1".to_owned(),
            kafka_properties: Properties::default(),
            topic_partitions: 2,
            topic_replication: 1,
        };
        let replay = measured(&nowhere, stored, all).unwrap();
        assert_eq!(replay.done, replay.handlers[0].done);
        let one = &replay.handlers[0];
        (one.delivered, one.left, one.done)
    }

    #[test]
    fn a_processor_that_stands_where_it_stood_has_not_begun_until_its_offset_names_the_replay() {
        let kind = HandlerKind::Processor;
        let at = |partition, replay| placed(kind, partition, 30, replay);
        assert_eq!(of(stored(kind, None), &[]), (0, 40, false));
        let none = [at(0, None), at(1, Some(Uuid::from_u128(6)))];
        assert_eq!(of(stored(kind, None), &none), (0, 40, false));
        let one = [at(0, Some(ID)), at(1, None)];
        assert_eq!(of(stored(kind, None), &one), (20, 20, false));
        let both = [at(0, Some(ID)), at(1, Some(ID))];
        assert_eq!(of(stored(kind, None), &both), (40, 0, true));
    }

    #[test]
    fn a_view_is_done_when_its_rebuild_is_and_not_when_little_is_left() {
        let kind = HandlerKind::View;
        assert_eq!(of(stored(kind, Some(i64::MAX)), &[]), (0, 40, false));
        assert_eq!(of(stored(kind, Some(1)), &[]), (39, 1, false));
        assert_eq!(of(stored(kind, None), &[]), (40, 0, true));
    }
}
