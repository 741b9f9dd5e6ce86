//! A list that nearly always holds one thing or nothing, and takes no memory of its own then.

use std::ops::{Deref, DerefMut};

/// Lists of fewer things than this take exactly what they need; longer ones at most twice that.
const EXACT_MAX: usize = 8;

/// The list; read it as a slice.
#[derive(Clone, Debug)]
pub(in crate::filesystem) enum Few<T> {
    One(T),
    /// Several; none stands for nothing.
    #[allow(clippy::box_collection)] // 8 bytes where one thing has its place
    Many(Option<Box<Vec<T>>>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Many(None)
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many.as_deref().map(Vec::as_slice).unwrap_or_default(),
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many
                .as_deref_mut()
                .map(Vec::as_mut_slice)
                .unwrap_or_default(),
        }
    }
}

impl<T> Few<T> {
    /// Adds a thing at the end.
    pub fn push(&mut self, thing: T) {
        if self.is_empty() {
            *self = Self::One(thing);
        } else {
            self.change(|many| many.push(thing));
        }
    }

    /// Changes the list as a vector.
    pub fn change(&mut self, change: impl FnOnce(&mut Vec<T>)) {
        let mut many = match std::mem::take(self) {
            Self::One(one) => Box::new(vec![one]),
            Self::Many(many) => many.unwrap_or_default(),
        };
        change(&mut many);
        *self = match (many.pop(), many.is_empty()) {
            (None, _) => Self::default(),
            (Some(one), true) => Self::One(one),
            (Some(last), false) => {
                many.push(last);
                if many.len() < EXACT_MAX || many.capacity() / 2 > many.len() {
                    many.shrink_to_fit();
                }
                Self::Many(Some(many))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_list_that_it_was_made_by() {
        let (mut few, mut list) = (Few::default(), Vec::new());
        for n in 0..100_u32 {
            match n % 7 {
                0 | 3 | 4 | 6 => {
                    few.push(n);
                    list.push(n);
                }
                1 => {
                    few.change(|many| many.retain(|n| n % 3 != 0));
                    list.retain(|n| n % 3 != 0);
                }
                2 => {
                    few.iter_mut().for_each(|n| *n += 1);
                    list.iter_mut().for_each(|n| *n += 1);
                }
                _ => {
                    few.change(|many| many.truncate(1));
                    list.truncate(1);
                }
            }
            assert_eq!(few[..], list[..]);
            assert_eq!(few.clone()[..], list[..]);
        }
        few.change(Vec::clear);
        assert!(few.is_empty());
    }
}
