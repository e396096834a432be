//! The recorder in force. When the disk runs full, a run of the recorder ends and, once there is room, another begins;
//! whoever comes to the door meets the one in force. Knows no reason for either.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use casemate_recorder::Recorder;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// One run of the recorder, and the sessions that it records.
pub struct Run {
    recorder: Recorder,
    sessions: TaskTracker,
}

/// A session's hold on the run that records it: the run is not over before it is dropped.
#[derive(Debug)]
pub struct Hold {
    run: Arc<Run>,
    _token: TaskTrackerToken,
}

/// The run in force.
#[derive(Debug)]
pub struct Live(RwLock<Arc<Run>>);

impl Run {
    fn new(recorder: Recorder) -> Arc<Self> {
        Arc::new(Self { recorder, sessions: TaskTracker::new() })
    }

    /// Returns the recorder.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Keeps the run from being over.
    pub fn hold(self: &Arc<Self>) -> Hold {
        Hold { run: Arc::clone(self), _token: self.sessions.token() }
    }

    /// Waits until no session holds the run.
    pub async fn over(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}

impl Hold {
    /// Returns the recorder of the run.
    pub fn recorder(&self) -> &Recorder {
        &self.run.recorder
    }
}

impl Live {
    /// Puts a first recorder in force.
    pub fn new(recorder: Recorder) -> Self {
        Self(RwLock::new(Run::new(recorder)))
    }

    /// Returns the run in force now.
    pub fn current(&self) -> Arc<Run> {
        // The lock guards one pointer, which no panic can leave half-written.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another recorder in force.
    pub fn replace(&self, recorder: Recorder) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Run::new(recorder);
    }
}
