package scan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// The layout of a bolt file, as far as reading one safely depends on it. Numbers are in the byte order of the machine that wrote
// it. A file is a row of pages; a page begins with its own number, its kind, how many elements it has and how many pages it
// runs on. The first two pages are alternating roots.
const (
	pageHeaderBytes    = 16
	pageElementBytes   = 16
	bucketHeaderBytes  = 16
	metaBytes          = 64
	metaChecksumOffset = 56

	boltMagic   = 0xED0CDAED
	boltVersion = 2

	branchPage = 0x01
	leafPage   = 0x02
	metaPage   = 0x04

	bucketElement = 0x01

	minPageBytes = 1 << 10
	maxPageBytes = 1 << 16
	// maxPageDepth is far above what any real tree has: four levels of pages already hold tens of millions of elements.
	maxPageDepth = 32
)

var errDamagedFile = errors.New("damaged database file")

// checkPages reports whether every page that can be reached in the bolt file r of size bytes is sound: all of it inside the file,
// of the right kind, used once, with its elements inside the page and in order. bolt itself trusts all of that, and answers a file
// that is not so with a panic, an endless descent, or the death of the process.
func checkPages(r io.ReaderAt, size int64) error {
	c := pageCheck{r: r, size: size}
	root, err := c.readMeta()
	if err != nil {
		return err
	}
	c.used = make([]uint64, c.pages/64+1)
	c.todo = []pageRef{{id: root}}
	for len(c.todo) > 0 {
		next := c.todo[len(c.todo)-1]
		c.todo = c.todo[:len(c.todo)-1]
		if err := c.check(next); err != nil {
			return err
		}
	}
	return nil
}

// pageRef is a page still to be checked, and how far below the root of its tree it lies.
type pageRef struct {
	id    uint64
	depth int
}

// pageCheck is one walk over the pages of a file. The walk keeps its own stack, so a deep file costs no more than a wide one.
type pageCheck struct {
	r         io.ReaderAt
	size      int64
	pageBytes int64
	pages     uint64
	// used has a bit for each page that was reached.
	used []uint64
	todo []pageRef
	buf  []byte
}

// readMeta reads both alternating roots, which must be whole, and returns the root page of the newer.
func (c *pageCheck) readMeta() (root uint64, err error) {
	var newest uint64
	for i := range int64(2) {
		m := make([]byte, pageHeaderBytes+metaBytes)
		if _, err := c.r.ReadAt(m, i*c.pageBytes); err != nil {
			return 0, fmt.Errorf("%w: %d bytes are too short for one", errDamagedFile, c.size)
		}
		if kind := binary.NativeEndian.Uint16(m[8:]); kind != metaPage {
			return 0, fmt.Errorf("%w: page %d is not a root", errDamagedFile, i)
		}
		m = m[pageHeaderBytes:]
		pageBytes, err := checkMeta(m)
		if err != nil {
			return 0, err
		}
		if i == 1 && pageBytes != c.pageBytes {
			return 0, fmt.Errorf("%w: roots disagree about the page size", errDamagedFile)
		}
		c.pageBytes = pageBytes
		if txid := binary.NativeEndian.Uint64(m[48:]); i == 0 || txid > newest {
			newest, root, c.pages = txid, binary.NativeEndian.Uint64(m[16:]), binary.NativeEndian.Uint64(m[40:])
		}
	}
	if c.pages > uint64(c.size/c.pageBytes) {
		return 0, fmt.Errorf("%w: %d bytes of %d pages of %d: cut off", errDamagedFile, c.size, c.pages, c.pageBytes)
	}
	return root, nil
}

func checkMeta(m []byte) (pageBytes int64, err error) {
	if binary.NativeEndian.Uint32(m) != boltMagic || binary.NativeEndian.Uint32(m[4:]) != boltVersion {
		return 0, fmt.Errorf("%w: not a bolt file of version %d", errDamagedFile, boltVersion)
	}
	sum := fnv.New64a()
	_, _ = sum.Write(m[:metaChecksumOffset]) // a hash never fails
	if sum.Sum64() != binary.NativeEndian.Uint64(m[metaChecksumOffset:]) {
		return 0, fmt.Errorf("%w: a root's checksum is wrong", errDamagedFile)
	}
	pageBytes = int64(binary.NativeEndian.Uint32(m[8:]))
	if pageBytes < minPageBytes || pageBytes > maxPageBytes || pageBytes&(pageBytes-1) != 0 {
		return 0, fmt.Errorf("%w: pages of %d bytes", errDamagedFile, pageBytes)
	}
	return pageBytes, nil
}

// check reads a page and checks it, leaving the pages it refers to for later.
func (c *pageCheck) check(ref pageRef) error {
	if ref.depth > maxPageDepth {
		return fmt.Errorf("%w: pages nested more than %d deep", errDamagedFile, maxPageDepth)
	}
	page, err := c.read(ref.id)
	if err != nil {
		return err
	}
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if pageHeaderBytes+count*pageElementBytes > len(page) {
		return fmt.Errorf("%w: page %d has %d elements", errDamagedFile, ref.id, count)
	}
	switch kind := binary.NativeEndian.Uint16(page[8:]); {
	case kind == branchPage && count > 0:
		return c.checkBranch(ref, page, count)
	case kind == leafPage:
		return c.checkLeaf(ref.id, page, count)
	default:
		return fmt.Errorf("%w: page %d is of kind %#x with %d elements", errDamagedFile, ref.id, kind, count)
	}
}

// read returns page id with the pages it runs on, marking all of them used.
func (c *pageCheck) read(id uint64) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, fmt.Errorf("%w: a reference to page %d of %d", errDamagedFile, id, c.pages)
	}
	var header [pageHeaderBytes]byte
	if _, err := c.r.ReadAt(header[:], int64(id)*c.pageBytes); err != nil {
		return nil, fmt.Errorf("reading page %d: %w", id, err)
	}
	end := id + 1 + uint64(binary.NativeEndian.Uint32(header[12:]))
	if binary.NativeEndian.Uint64(header[:]) != id || end > c.pages {
		return nil, fmt.Errorf("%w: page %d is not where it should be, or runs to %d of %d", errDamagedFile, id, end, c.pages)
	}
	for p := id; p < end; p++ {
		bit := uint64(1) << (p % 64)
		if c.used[p/64]&bit != 0 {
			return nil, fmt.Errorf("%w: page %d is used twice", errDamagedFile, p)
		}
		c.used[p/64] |= bit
	}
	length := int64(end-id) * c.pageBytes
	if int64(cap(c.buf)) < length {
		c.buf = make([]byte, length)
	}
	page := c.buf[:length]
	if _, err := c.r.ReadAt(page, int64(id)*c.pageBytes); err != nil {
		return nil, fmt.Errorf("reading page %d: %w", id, err)
	}
	return page, nil
}

// checkBranch checks a page that refers to others by their first keys: position, key size, page.
func (c *pageCheck) checkBranch(ref pageRef, page []byte, count int) error {
	var last []byte
	for i := range count {
		at := pageHeaderBytes + i*pageElementBytes
		e := page[at:]
		key, _, ok := elementBytes(e, binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:]), 0)
		if !ok || i > 0 && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("%w: element %d of page %d", errDamagedFile, i, ref.id)
		}
		last = key
		c.todo = append(c.todo, pageRef{id: binary.NativeEndian.Uint64(e[8:]), depth: ref.depth + 1})
	}
	return nil
}

// checkLeaf checks a page of keys with their values: flags, position, key size, value size. A value may be a bucket.
func (c *pageCheck) checkLeaf(id uint64, page []byte, count int) error {
	var last []byte
	for i := range count {
		e := page[pageHeaderBytes+i*pageElementBytes:]
		flags := binary.NativeEndian.Uint32(e)
		key, value, ok := elementBytes(e, binary.NativeEndian.Uint32(e[4:]), binary.NativeEndian.Uint32(e[8:]), binary.NativeEndian.Uint32(e[12:]))
		if !ok || i > 0 && bytes.Compare(last, key) >= 0 || flags&^bucketElement != 0 {
			return fmt.Errorf("%w: element %d of page %d", errDamagedFile, i, id)
		}
		last = key
		if flags == bucketElement && !c.checkBucket(value) {
			return fmt.Errorf("%w: bucket %d of page %d", errDamagedFile, i, id)
		}
	}
	return nil
}

// checkBucket checks the value that stands for a bucket: the page its own tree begins at, or, when that is zero, a small leaf page
// that follows in place. Buckets in such a page are never written by bolt, and refused.
func (c *pageCheck) checkBucket(value []byte) bool {
	if len(value) < bucketHeaderBytes {
		return false
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		c.todo = append(c.todo, pageRef{id: root})
		return true
	}
	page := value[bucketHeaderBytes:]
	if len(page) < pageHeaderBytes || binary.NativeEndian.Uint64(page) != 0 || binary.NativeEndian.Uint16(page[8:]) != leafPage {
		return false
	}
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if pageHeaderBytes+count*pageElementBytes > len(page) {
		return false
	}
	for i := range count {
		if binary.NativeEndian.Uint32(page[pageHeaderBytes+i*pageElementBytes:])&bucketElement != 0 {
			return false
		}
	}
	return c.checkLeaf(0, page, count) == nil
}

// elementBytes returns key and value of an element whose own bytes begin from; their position counts from there. ok is false when
// they do not lie inside the page, or there is no key.
func elementBytes(from []byte, pos, keyBytes, valueBytes uint32) (key, value []byte, ok bool) {
	end := int64(pos) + int64(keyBytes) + int64(valueBytes)
	if keyBytes == 0 || pos < pageElementBytes || end > int64(len(from)) {
		return nil, nil, false
	}
	k := int64(pos) + int64(keyBytes)
	return from[pos:k], from[k:end], true
}
