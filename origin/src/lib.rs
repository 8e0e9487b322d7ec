//! The seeder before upstream.
pub mod coalesce;
pub mod config;
mod cut;
mod flight;
mod names;
pub mod upstream;
