//! A topology: every processor of a program, as a value that `main` runs and tests pipe events through.

use std::fmt;
use std::sync::Arc;

use super::handler::Erased;
use super::{Handler, Processor};

/// The processors of a program.
#[derive(Clone, Default)]
pub struct Topology {
    handlers: Vec<Arc<dyn Handler>>,
}

impl Topology {
    /// Without processors.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    ///
    /// # Panics
    /// When two processors have one name: they would share a group and take each other's events.
    #[must_use]
    pub fn processor(self, processor: impl Processor) -> Self {
        self.handler(Arc::new(Erased(processor)))
    }

    /// With one whose type is erased already; panics as [`processor`](Self::processor) does.
    #[must_use]
    pub fn handler(mut self, handler: Arc<dyn Handler>) -> Self {
        let name = handler.name();
        assert!(
            self.handlers.iter().all(|other| other.name() != name),
            "two processors are named {name}"
        );
        self.handlers.push(handler);
        self
    }

    /// All of them, in the order in which they were added.
    pub fn handlers(&self) -> &[Arc<dyn Handler>] {
        &self.handlers
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.handlers.iter().map(|handler| handler.name()))
            .finish()
    }
}
