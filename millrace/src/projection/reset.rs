//! What a committed offset means: an operator's reset, or only the shadow of our own commits.

pub use crate::log::offsets::{Committed, metadata};

/// What a partition has to do before its first batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on from the checkpoint.
    Resume,
    /// Go on from the checkpoint, but first commit it to Kafka with our metadata: a commit without any
    /// stands there, and left there it would look like a reset once the checkpoint has moved.
    Sign,
    /// Record that an operator wants the view rebuilt from this offset's partition; go on meanwhile.
    Backwards {
        /// Offset that the operator chose.
        target: i64,
    },
    /// Record the skip and move the checkpoint.
    Forwards {
        /// Offset that the operator chose.
        target: i64,
    },
}

/// Compares the checkpoint with what the group has committed.
///
/// Only a commit without metadata can be a reset. Ours carries some, so a lower offset of ours is a
/// crash between the Postgres and the Kafka commit, and a higher one a restored Postgres: the
/// checkpoint, which moved with the rows, wins both times.
pub fn judge(next: i64, committed: Option<&Committed>) -> Verdict {
    match committed {
        Some(Committed { offset, metadata }) if metadata.is_empty() => match (*offset).cmp(&next) {
            std::cmp::Ordering::Equal => Verdict::Sign,
            std::cmp::Ordering::Less => Verdict::Backwards { target: *offset },
            std::cmp::Ordering::Greater => Verdict::Forwards { target: *offset },
        },
        _ => Verdict::Resume,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(offset: i64, metadata: &str) -> Option<Committed> {
        Some(Committed {
            offset,
            metadata: metadata.to_owned(),
        })
    }

    #[test]
    fn a_commit_without_metadata_is_an_operators_reset() {
        assert_eq!(
            judge(100, committed(0, "").as_ref()),
            Verdict::Backwards { target: 0 }
        );
        assert_eq!(
            judge(100, committed(150, "").as_ref()),
            Verdict::Forwards { target: 150 }
        );
    }

    #[test]
    fn an_offset_equal_to_the_checkpoint_or_none_is_no_reset() {
        assert_eq!(judge(100, committed(100, "").as_ref()), Verdict::Sign);
        assert_eq!(judge(0, committed(0, "").as_ref()), Verdict::Sign);
        assert_eq!(judge(100, None), Verdict::Resume);
    }

    #[test]
    fn our_own_commit_never_moves_the_checkpoint() {
        for offset in [0, 99, 100, 101] {
            let ours = committed(offset, &metadata(3, offset));
            assert_eq!(judge(100, ours.as_ref()), Verdict::Resume);
        }
    }
}
