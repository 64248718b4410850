//! The two axes of the table, which pairs of them exist, and what must come of each.

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Delivered,
    StderrStuck,
    SenderKilled,
    SenderInterrupted,
    ReceiverInterrupted,
    ReceiverKilled,
    AllReset,
    InputError,
    OutputEarly,
    DiskFull,
    AtSync,
    AtClose,
    NoReader,
    CommandFails,
    CommandKilled,
    CommandHangs,
}

/// Where what is received goes, and in which kind of session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    StdoutPipe,
    StdoutFile,
    File,
    Pattern,
    Device,
    Fifo,
    Command,
    Duplex,
    Reverse,
    Keep,
    KeepCommand,
}

/// How a side ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Is(i32),
    /// By a signal, or with the number that says so.
    Signal,
}

pub(crate) const WAYS: [(Way, &str); 16] = [
    (Way::Delivered, "delivered"),
    (Way::StderrStuck, "delivered, stderr stuck"),
    (Way::SenderKilled, "peer dies"),
    (Way::AllReset, "peer resets"),
    (Way::SenderInterrupted, "peer interrupted"),
    (Way::ReceiverInterrupted, "SIGTERM here"),
    (Way::ReceiverKilled, "SIGKILL here"),
    (Way::InputError, "input error"),
    (Way::OutputEarly, "output error, early"),
    (Way::DiskFull, "disk full"),
    (Way::AtSync, "output error at sync"),
    (Way::AtClose, "output error at close"),
    (Way::NoReader, "nobody reads"),
    (Way::CommandFails, "command fails"),
    (Way::CommandKilled, "command is killed"),
    (Way::CommandHangs, "command hangs"),
];

pub(crate) const ENDS: [(End, &str); 11] = [
    (End::StdoutPipe, "stdout, a pipe"),
    (End::StdoutFile, "stdout, a file"),
    (End::File, "-o file"),
    (End::Pattern, "-k -o pattern"),
    (End::Device, "-o device"),
    (End::Fifo, "-o FIFO"),
    (End::Command, "-e"),
    (End::Duplex, "--duplex"),
    (End::Reverse, "--reverse -o"),
    (End::Keep, "-k"),
    (End::KeepCommand, "-k -e"),
];

impl End {
    /// Whether the bytes go to a file whose name strace can be told.
    pub(crate) fn is_named(self) -> bool {
        matches!(self, Self::StdoutFile | Self::File | Self::Pattern | Self::Device | Self::Reverse)
    }

    pub(crate) fn is_command(self) -> bool {
        matches!(self, Self::Command | Self::KeepCommand)
    }

    pub(crate) fn keeps(self) -> bool {
        matches!(self, Self::Pattern | Self::Keep | Self::KeepCommand)
    }

    /// Whether the test itself reads what comes out.
    pub(crate) fn is_read_here(self) -> bool {
        matches!(self, Self::StdoutPipe | Self::Duplex | Self::Keep | Self::Fifo)
    }
}

impl Way {
    /// Whether a session with this end can end so.
    pub(crate) fn is_of(self, end: End) -> bool {
        match self {
            Self::DiskFull | Self::AtSync => end.is_named(),
            Self::AtClose => end.is_named() || end == End::Fifo,
            Self::NoReader => end == End::Fifo,
            Self::CommandFails | Self::CommandKilled | Self::CommandHangs => end.is_command(),
            _ => true,
        }
    }

    /// Whether the sender's input stays open: what ends the session comes in its middle.
    pub(crate) fn is_midway(self) -> bool {
        matches!(
            self,
            Self::SenderKilled
                | Self::SenderInterrupted
                | Self::ReceiverInterrupted
                | Self::ReceiverKilled
                | Self::AllReset
        )
    }

    /// Whether strace makes the output fail.
    pub(crate) fn injects(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::DiskFull => Some(("trace=write", "inject=write:error=ENOSPC:when=2+")),
            Self::AtSync => Some(("trace=fsync,fdatasync", "inject=fsync,fdatasync:error=EIO")),
            Self::AtClose => Some(("trace=close", "inject=close:error=EIO")),
            _ => None,
        }
    }

    /// How the sending and the receiving side must end. Of a listener that goes on, the second is what it says of the
    /// session.
    pub(crate) fn codes(self) -> (Code, Code) {
        match self {
            Self::Delivered | Self::StderrStuck => (Code::Is(0), Code::Is(0)),
            Self::SenderKilled | Self::SenderInterrupted => (Code::Signal, Code::Is(4)),
            Self::ReceiverInterrupted | Self::ReceiverKilled | Self::CommandHangs => (Code::Is(4), Code::Signal),
            Self::AllReset => (Code::Is(4), Code::Is(4)),
            Self::InputError => (Code::Is(1), Code::Is(4)),
            _ => (Code::Is(4), Code::Is(1)),
        }
    }

    /// Whether nothing of the receiving side is left that could serve another session.
    pub(crate) fn ends_listener(self) -> bool {
        matches!(self, Self::ReceiverInterrupted | Self::ReceiverKilled | Self::CommandHangs)
    }
}
