//! The observer by itself, on any devices: `observe listener|connector PORT DEVICE...` counts the port's streams until
//! it is killed, and says every second what it saw. For measuring what observing costs, and for looking at a host
//! without a bond.
//!
//! With `MPNC_OBSERVE_BY=socket` the packet sockets of older kernels are taken where tcx would be.

use mpnc::observe::{Backend, Observer, Role};
use std::error::Error;
use std::thread::sleep;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [role, port, devices @ ..] = words.as_slice() else {
        return Err("observe listener|connector PORT DEVICE...".into());
    };
    let role = if role == "listener" { Role::Listener } else { Role::Connector };
    let index = |name: &str| -> Result<u32, Box<dyn Error>> {
        Ok(std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?.trim().parse()?)
    };
    let slaves =
        devices.iter().map(|name| Ok((name.as_str(), index(name)?))).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let observer = match std::env::var("MPNC_OBSERVE_BY").as_deref() {
        Ok("socket") => Observer::attach_with(Backend::PacketSocket, &slaves, port.parse()?, role)?,
        _ => Observer::attach(&slaves, port.parse()?, role)?,
    };
    loop {
        let counts = observer.read()?;
        let bytes: u64 = counts.iter().map(|count| count.bytes).sum();
        println!("{:?}: {bytes} bytes in {} counts", observer.backend(), counts.len());
        sleep(Duration::from_secs(1));
    }
}
