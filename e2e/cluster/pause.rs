//! Process 1 of every pod sandbox: reaps children, ends on TERM or INT. Compiled by `rustc` alone.

use std::{os::raw::c_int, ptr::null_mut};

const INT: c_int = 2;
const TERM: c_int = 15;
const CHILD: c_int = 17;
const NO_HANG: c_int = 1;

unsafe extern "C" {
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn pause() -> c_int;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
}

extern "C" fn end(_: c_int) {
    // SAFETY: `_exit` may be called in a signal handler.
    unsafe { _exit(0) }
}

extern "C" fn reap(_: c_int) {
    // SAFETY: `waitpid` may be called in a signal handler, and a null status is not written.
    unsafe { while waitpid(-1, null_mut(), NO_HANG) > 0 {} }
}

fn main() {
    // SAFETY: the handlers call only what is allowed in one.
    unsafe {
        signal(INT, end);
        signal(TERM, end);
        signal(CHILD, reap);
        loop {
            pause();
        }
    }
}
