//! Replies that are kept beside a record, for the question that is asked again and again: who answers where.
//!
//! A reply of a few service instances is some hundred values, and the server takes longer to write them one by one than
//! for everything else. So a question that is asked a second time, with nothing changed in between, has its reply kept, and
//! is answered with one copy from then on.
//!
//! What is kept holds for the same words, the key's name among them (RENAME moves a record and tells nobody), in the same
//! version of the protocol, as long as the record is the same: whoever has it to change it, takes away what was kept
//! ([`Key::record_mut`](super::ffi::Key::record_mut)). It hangs on the key and not on the record, so no copy has it.

use super::ffi::{CallReply, Ctx};
use redis_module::RedisString;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many replies are kept with a record, and so many questions remembered: the forms in which callers ask.
const MANY: usize = 4;

/// The longest question whose reply is kept, in bytes.
const LONGEST_QUESTION: usize = 4096;

/// Set around the call of a command whose reply is to be kept. Its thread is the only one that runs commands.
static IS_MAKING: AtomicBool = AtomicBool::new(false);

/// Whether the running command was called by [`make`]: it is answered as it always was.
pub fn is_making() -> bool {
    IS_MAKING.load(Ordering::Relaxed)
}

/// What was asked: a command's words, the key first, and the protocol of the caller.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub words: &'a [RedisString],
    pub is_resp3: bool,
}

impl Question<'_> {
    /// A number that other questions hardly have. Never 0.
    fn mark(&self) -> u32 {
        let step = |sum: u32, byte: u8| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let word = |sum, word: &RedisString| step(word.as_slice().iter().fold(sum, |sum, byte| step(sum, *byte)), 0xff);
        self.words.iter().fold(step(0x811c_9dc5, u8::from(self.is_resp3)), word).max(1)
    }

    fn length(&self) -> usize {
        self.words.iter().map(|word| word.as_slice().len()).sum()
    }
}

struct Reply {
    words: Box<[Box<[u8]>]>,
    is_resp3: bool,
    reply: CallReply,
}

/// What is kept with one record.
#[derive(Default)]
pub struct Kept {
    /// The questions that were asked last, by their marks, and have no reply here.
    asked: [u32; MANY],
    has_given_up: bool,
    replies: Vec<Reply>,
}

impl Kept {
    /// The reply to this question, where it is kept.
    pub fn find(&self, question: &Question) -> Option<&CallReply> {
        let is_it = |kept: &&Reply| {
            kept.is_resp3 == question.is_resp3
                && kept.words.len() == question.words.len()
                && kept.words.iter().zip(question.words).all(|(kept, word)| **kept == *word.as_slice())
        };
        self.replies.iter().find(is_it).map(|kept| &kept.reply)
    }

    /// Remembers a question; whether it was asked before, and its reply is worth keeping.
    pub fn is_asked_again(&mut self, question: &Question) -> bool {
        if self.has_given_up {
            return false;
        }
        let mark = question.mark();
        if self.asked.contains(&mark) {
            return question.length() <= LONGEST_QUESTION;
        }
        self.asked.rotate_right(1);
        self.asked[0] = mark;
        false
    }

    /// Keeps a reply, in the place of the oldest where there are many.
    pub fn keep(&mut self, question: &Question, reply: CallReply) {
        if self.replies.len() >= MANY {
            self.replies.remove(0);
        }
        let words = question.words.iter().map(|word| Box::from(word.as_slice())).collect();
        self.replies.push(Reply { words, is_resp3: question.is_resp3, reply });
    }

    /// A reply could not be had, or was too long: none is asked for again as long as the record is the same.
    pub fn give_up(&mut self) {
        self.has_given_up = true;
    }

    /// What all of it takes in memory.
    pub fn memory(&self) -> usize {
        let of_words = |kept: &Reply| kept.words.iter().map(|word| word.len() + size_of::<Box<[u8]>>()).sum::<usize>();
        let of_replies = self.replies.iter().map(|kept| of_words(kept) + kept.reply.memory());
        self.replies.capacity() * size_of::<Reply>() + of_replies.sum::<usize>()
    }
}

/// Has the server answer the question as if nothing were kept, and gives its reply.
pub fn make(ctx: Ctx, command: &CStr, question: &Question) -> Option<CallReply> {
    IS_MAKING.store(true, Ordering::Relaxed);
    let reply = CallReply::of(ctx, command, question.words, question.is_resp3);
    IS_MAKING.store(false, Ordering::Relaxed);
    reply
}
