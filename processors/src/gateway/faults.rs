//! What goes wrong at the in-house gateway, and how often.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

/// What becomes of one request that moves money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is carried out and answered.
    None,
    /// It is carried out and answered after a pause.
    Slow,
    /// A charge is declined for good; a refund is carried out.
    Declines,
    /// 503, and nothing is done.
    Busy,
    /// 500, and nothing is done.
    Fails,
    /// 500, and it is carried out.
    FailsAfter,
    /// The connection breaks before anything is done.
    BreaksOff,
    /// It is carried out, and the connection breaks instead of an answer.
    LosesAnswer,
    /// It is carried out, and no answer comes for a long time.
    TimesOut,
    /// It is carried out and answered, and the answer comes once more on another way.
    AnswersTwice,
}

/// Everything that can go wrong.
pub const FAULTS: [Fault; 9] = [
    Fault::Slow,
    Fault::Declines,
    Fault::Busy,
    Fault::Fails,
    Fault::FailsAfter,
    Fault::BreaksOff,
    Fault::LosesAnswer,
    Fault::TimesOut,
    Fault::AnswersTwice,
];

type Choice = Arc<dyn Fn(&str) -> Fault + Send + Sync>;

/// Says for each request what becomes of it, by the payment that it is about.
#[derive(Clone)]
pub struct Faults {
    choice: Choice,
    /// How long a slow answer takes.
    pub slow: Duration,
    /// How long no answer comes.
    pub hang: Duration,
}

impl Faults {
    /// As this function says, which is asked for every request.
    pub fn chosen(choice: impl Fn(&str) -> Fault + Send + Sync + 'static) -> Self {
        Self {
            choice: Arc::new(choice),
            slow: Duration::from_millis(500),
            hang: Duration::from_secs(30),
        }
    }

    /// So many of a hundred requests go wrong, each kind as often as another.
    pub fn random(percent: u8) -> Self {
        Self::chosen(move |_| {
            // The low 62 bits of a version 7 id are random.
            let random = Uuid::now_v7().as_u128() & 0x3fff_ffff_ffff_ffff;
            if random % 100 >= u128::from(percent) {
                return Fault::None;
            }
            let kind = usize::try_from((random / 100) % FAULTS.len() as u128);
            FAULTS[kind.expect("it is below the number of faults")]
        })
    }

    pub(super) fn choose(&self, payment_id: &str) -> Fault {
        (self.choice)(payment_id)
    }
}
