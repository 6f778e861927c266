//! What an operator does after the journal was restored or exchanged; the steps are in the runbook.
