//! The proving ground: local cluster, simulator, fan-out, faults. Nothing depends on it.
//!
//! So far only the checks of order under `tests/` are whole. The modules beside this file (a cluster of the real binaries,
//! a registry with faults, a client that acts as containerd does) are not joined yet: they drive daemons that are not there.
