//! Turns the wire schema into Rust, with no `protoc` on the machine.

use std::error::Error;

const SCHEMA: &str = "schema/shoal.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SCHEMA}");
    let descriptors = protox::compile([SCHEMA], ["schema"])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
