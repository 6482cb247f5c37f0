//! Compiles the messages with protox, so that no system `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=tidegate");
    let files = protox::compile(["tidegate/v1/event.proto"], ["."])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
