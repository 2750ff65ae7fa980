//! What do two processes say to hand listeners over? One message: names with spaces between, and the listeners beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::{LISTENERS_MAX, Name};

/// Room for all names.
const TEXT_BYTES_MAX: usize = 128;

/// Listeners with their names, in the same order.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) names: Vec<Name>,
    pub(super) listeners: Vec<OwnedFd>,
}

/// Sends listeners. The receiver has descriptors of its own for them.
///
/// # Errors
/// What the operating system says.
pub(super) fn send(link: &impl AsFd, listeners: &[(Name, OwnedFd)]) -> io::Result<()> {
    let names: Vec<&str> = listeners.iter().map(|(name, _listener)| name.text()).collect();
    let text = names.join(" ");
    let descriptors: Vec<_> = listeners
        .iter()
        .map(|(_name, listener)| listener.as_fd())
        .collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("too many listeners"));
    }
    let sent = sendmsg(
        link,
        &[IoSlice::new(text.as_bytes())],
        &mut beside,
        SendFlags::NOSIGNAL,
    )?;
    if sent == text.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives what [`send`] sends.
///
/// # Errors
/// What the operating system says, or that the message is another.
pub(super) fn receive(link: &impl AsFd) -> io::Result<Offer> {
    let mut text = [0; TEXT_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        link,
        &mut [IoSliceMut::new(&mut text)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut listeners = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            listeners.extend(descriptors);
        }
    }
    let text = std::str::from_utf8(text.get(..received.bytes).unwrap_or_default());
    let names = text
        .ok()
        .and_then(names)
        .filter(|names| names.len() == listeners.len());
    let names = names.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no offer of listeners"))?;
    Ok(Offer { names, listeners })
}

fn names(text: &str) -> Option<Vec<Name>> {
    let named = |word: &str| Name::ALL.into_iter().find(|name| name.text() == word);
    text.split(' ').map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_listener_keeps_its_name_and_its_address() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        send(&here, &[(Name::Admin, OwnedFd::from(listener))]).unwrap();
        let Offer { names, listeners } = receive(&there).unwrap();
        assert_eq!(names, [Name::Admin]);
        let listener = std::net::TcpListener::from(listeners.into_iter().next().unwrap());
        assert_eq!(listener.local_addr().unwrap(), address);
    }

    #[test]
    fn anything_else_is_no_offer() {
        let (here, there) = UnixStream::pair().unwrap();
        (&here).write_all(b"main").unwrap();
        assert!(receive(&there).is_err(), "a name without a listener");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        send(&here, &[]).unwrap_or_default();
        drop(here);
        drop(listener);
        assert!(receive(&there).is_err());
    }
}
