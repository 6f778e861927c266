//! A view of the reference system, read from another topic than the system's own.

use std::sync::Arc;

use millrace::projection::sql::PgConnection;
use millrace::projection::{
    Applied, ApplyError, BoxFuture, Build, Decoder, Projector, Record, Start,
};
use uuid::Uuid;

/// The same view with a topic and a group that nobody else uses.
pub(crate) struct Elsewhere {
    view: Arc<dyn Projector>,
    topic: String,
    group: String,
}

impl Elsewhere {
    pub(crate) fn new(view: Arc<dyn Projector>, topic: &str) -> Self {
        Self {
            group: format!("{}.{}", view.group(), Uuid::now_v7().simple()),
            view,
            topic: topic.to_owned(),
        }
    }
}

impl Projector for Elsewhere {
    fn name(&self) -> &str {
        self.view.name()
    }

    fn group(&self) -> String {
        self.group.clone()
    }

    fn topics(&self) -> Vec<String> {
        vec![self.topic.clone()]
    }

    fn start(&self) -> Start {
        self.view.start()
    }

    fn sql(&self) -> &str {
        self.view.sql()
    }

    fn library_sql(&self) -> &'static str {
        self.view.library_sql()
    }

    fn columns(&self) -> Vec<(String, String, String)> {
        self.view.columns()
    }

    fn apply<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        build: &'a Build,
        decoder: &'a Decoder,
        records: &'a [Record],
    ) -> BoxFuture<'a, Result<Applied, ApplyError>> {
        self.view.apply(tx, build, decoder, records)
    }

    fn pass_over<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        build: &'a Build,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<(), ApplyError>> {
        self.view.pass_over(tx, build, record)
    }

    fn absorbs_repeats(&self) -> bool {
        self.view.absorbs_repeats()
    }
}
