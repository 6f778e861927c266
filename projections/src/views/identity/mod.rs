//! The views of tenants, their users and workspaces, and of registrations.

pub mod registrations;
pub mod tenants;
pub mod users;
pub mod workspace_members;
pub mod workspaces;
