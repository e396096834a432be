//! The Merkle tree of RFC 6962 over SHA-256: its right edge, its proofs, and their verification.
//!
//! Works on hashes alone; where inner nodes are kept is the caller's business. A node is named by `(level, index)`: the
//! root of the complete subtree over the leaves `index << level .. (index + 1) << level`.

use std::fmt;

use sha2::{Digest, Sha256};

/// The length of a hash.
pub const HASH_LEN: usize = 32;

/// A SHA-256 hash of a leaf, an inner node or a whole tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; HASH_LEN]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// Hashes an entry as a leaf: the prefix keeps an entry from posing as an inner node.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

/// Hashes two neighbours into their parent.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// Returns the root of a tree without leaves.
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// Why a proof or a restored edge does not hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProofError {
    /// The question itself makes no sense, such as a leaf beyond the tree.
    #[error("leaf or size {asked} is outside a tree of {size} leaves")]
    Range {
        /// What was asked for.
        asked: u64,
        /// The size of the tree.
        size: u64,
    },
    /// The proof has too few or too many hashes.
    #[error("proof has the wrong number of hashes")]
    Length,
    /// The proof leads to another root.
    #[error("proof leads to another root")]
    Root,
}

/// The right edge of a growing tree: enough to append and to compute the root, in O(log n) memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of the complete subtrees, largest first: one for each bit set in `size`.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Makes the edge of an empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Restores the edge of a tree of `size` leaves, asking `node` for the roots of its complete subtrees.
    ///
    /// # Errors
    /// Whatever `node` fails with.
    pub fn restore<E>(size: u64, mut node: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Self, E> {
        let mut peaks = Vec::with_capacity(size.count_ones() as usize);
        let mut start = 0u64;
        for level in (0..64u8).rev() {
            if size >> level & 1 == 1 {
                peaks.push(node(level, start >> level)?);
                start += 1 << level;
            }
        }
        Ok(Self { size, peaks })
    }

    /// Returns how many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its hash.
    pub fn append(&mut self, leaf: Hash) {
        self.append_each(leaf, |_, _, _| {});
    }

    /// Adds a leaf by its hash and names every node that became complete by it, the leaf itself first.
    pub fn append_each(&mut self, leaf: Hash, mut complete: impl FnMut(u8, u64, Hash)) {
        let mut hash = leaf;
        complete(0, self.size, hash);
        for level in 0..self.size.trailing_ones() as u8 {
            // One peak stands for each trailing one: they are the left neighbours, smallest last.
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
            complete(level + 1, self.size >> (level + 1), hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// Computes the root of the tree.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Returns the largest power of two below `n`, where a tree of `n >= 2` leaves splits.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// Computes the root over the leaves `start..end` (not empty), where `start` is a multiple of the subtree that begins there.
fn range_root<E>(start: u64, end: u64, node: &mut impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    let len = end - start;
    if len.is_power_of_two() {
        let level = len.trailing_zeros();
        return node(level as u8, start >> level);
    }
    let middle = start + split(len);
    let left = range_root(start, middle, node)?;
    let right = range_root(middle, end, node)?;
    Ok(node_hash(&left, &right))
}

/// Builds the proof that leaf `index` lies in the tree of `size` leaves; `node` gives roots of complete subtrees.
/// `index` must be below `size`, or the proof is empty and proves nothing.
///
/// # Errors
/// Whatever `node` fails with.
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    mut node: impl FnMut(u8, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    while index < size && end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(range_root(middle, end, &mut node)?);
            end = middle;
        } else {
            proof.push(range_root(start, middle, &mut node)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Builds the proof that the tree of `old` leaves is the beginning of the tree of `new` leaves.
/// It is empty where there is nothing to prove: `old` is 0 or not below `new`.
///
/// # Errors
/// Whatever `node` fails with.
pub fn consistency_proof<E>(
    old: u64,
    new: u64,
    mut node: impl FnMut(u8, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    if old == 0 || old >= new {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    while end > old {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(range_root(middle, end, &mut node)?);
            end = middle;
        } else {
            proof.push(range_root(start, middle, &mut node)?);
            start = middle;
        }
    }
    // When the old tree is a complete subtree at the left edge, the verifier has its root already.
    if start > 0 {
        proof.push(range_root(start, end, &mut node)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that a leaf lies at `index` in the tree of `size` leaves with that `root` (RFC 9162 §2.1.3.2).
///
/// # Errors
/// [`ProofError`] says what does not hold.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Range { asked: index, size });
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            // A node without right neighbour rises until it is one itself.
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last, hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// Checks that the tree of `old` leaves is the beginning of the tree of `new` leaves (RFC 9162 §2.1.4.2).
///
/// # Errors
/// [`ProofError`] says what does not hold.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Range { asked: old, size: new });
    }
    if old == 0 || old == new {
        // Nothing to recompute: every tree begins with the empty one, and equal sizes must have equal roots.
        let expected = if old == 0 { empty_root() } else { *new_root };
        return match (proof.is_empty(), *old_root == expected) {
            (false, _) => Err(ProofError::Length),
            (true, false) => Err(ProofError::Root),
            (true, true) => Ok(()),
        };
    }
    let (first, rest) = if old.is_power_of_two() {
        (old_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(ProofError::Length)?;
        (first, rest)
    };
    let (mut node, mut last) = (old - 1, new - 1);
    let rise = node.trailing_ones();
    node >>= rise;
    last >>= rise;
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if old_hash == *old_root && new_hash == *new_root { Ok(()) } else { Err(ProofError::Root) }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;

    use super::*;

    /// The definition of RFC 6962 §2.1, word by word: what the code above is held against.
    pub(crate) fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            _ => {
                let mut k = 1;
                while k * 2 < leaves.len() {
                    k *= 2;
                }
                node_hash(&naive_root(&leaves[..k]), &naive_root(&leaves[k..]))
            }
        }
    }

    pub(crate) fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    fn source(leaves: &[Hash]) -> impl FnMut(u8, u64) -> Result<Hash, Infallible> {
        |level, index| {
            let start = (index as usize) << level;
            Ok(naive_root(&leaves[start..start + (1 << level)]))
        }
    }

    #[test]
    fn the_roots_of_the_reference_tree_come_out() {
        // The eight inputs and roots that Certificate Transparency implementations have shared since 2012.
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut edge = Frontier::new();
        assert_eq!(edge.root().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (input, root) in inputs.iter().zip(roots) {
            edge.append(leaf_hash(input));
            assert_eq!(edge.root().to_string(), root, "size {}", edge.size());
        }
    }

    #[test]
    fn the_edge_agrees_with_the_definition_and_can_be_restored() {
        let all = leaves(300);
        let mut edge = Frontier::new();
        for (n, leaf) in all.iter().enumerate() {
            assert_eq!(edge.root(), naive_root(&all[..n]));
            assert_eq!(Frontier::restore(n as u64, source(&all)).unwrap(), edge);
            edge.append_each(*leaf, |level, index, hash| {
                assert_eq!(Ok(hash), source(&all)(level, index), "level {level} index {index}");
            });
        }
    }

    #[test]
    fn every_inclusion_proof_holds_and_no_other_leaf_fits_it() {
        let all = leaves(70);
        for size in 1..=all.len() as u64 {
            let root = naive_root(&all[..size as usize]);
            for index in 0..size {
                let proof = inclusion_proof(index, size, source(&all)).unwrap();
                verify_inclusion(&all[index as usize], index, size, &proof, &root).unwrap();
                let other = all[((index + 1) % 70) as usize];
                assert!(verify_inclusion(&other, index, size, &proof, &root).is_err());
                if size > 1 {
                    assert!(verify_inclusion(&all[index as usize], (index + 1) % size, size, &proof, &root).is_err());
                    assert!(
                        verify_inclusion(&all[index as usize], index, size, &proof[..proof.len() - 1], &root).is_err()
                    );
                }
            }
            assert!(verify_inclusion(&all[0], size, size, &[], &root).is_err());
        }
    }

    #[test]
    fn every_consistency_proof_holds_and_a_changed_one_does_not() {
        let all = leaves(70);
        for new in 0..=70u64 {
            let new_root = naive_root(&all[..new as usize]);
            for old in 0..=new {
                let old_root = naive_root(&all[..old as usize]);
                let proof = consistency_proof(old, new, source(&all)).unwrap();
                verify_consistency(old, &old_root, new, &new_root, &proof).unwrap();
                assert!(verify_consistency(old, &all[69], new, &new_root, &proof).is_err());
                let mut longer = proof.clone();
                longer.push(all[0]);
                assert!(verify_consistency(old, &old_root, new, &new_root, &longer).is_err());
                for at in 0..proof.len() {
                    let mut bad = proof.clone();
                    bad[at].0[0] ^= 1;
                    assert!(verify_consistency(old, &old_root, new, &new_root, &bad).is_err());
                }
            }
            assert!(verify_consistency(new + 1, &new_root, new, &new_root, &[]).is_err());
        }
    }
}
