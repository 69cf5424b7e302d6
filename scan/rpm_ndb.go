package scan

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"iter"
	"slices"
)

// rpm's own database, the default of SUSE: pages of slots, which begin with the header, then blobs in blocks of 16 bytes. Numbers are
// little-endian. What belongs to no slot is zeros: rpm zeroes what it frees, and refuses to write where something else is.
const (
	ndbMagic       = "RpmP"
	ndbSlotMagic   = "Slot"
	ndbBlobMagic   = "BlbS"
	ndbTailMagic   = "BlbE"
	ndbHeaderBytes = 32 // the magic, version, generation, number of slot pages and next package's number
	ndbBlock       = 16 // the bytes of a slot and of a block
	ndbSlotPage    = 4096
	ndbBlobHead    = 16 // its magic, package's number, time and length
	ndbBlobTail    = 12 // its checksum, length and magic
)

// ndbSlot is where the blob of a package lies.
type ndbSlot struct {
	pkg           uint32
	offset, bytes int64
}

// isNDB reports whether data begins as a database of that format does.
func isNDB(data []byte) bool {
	return len(data) >= ndbHeaderBytes && bytes.HasPrefix(data, []byte(ndbMagic))
}

// ndbHeaders yields the header of each package and at the end what is wrong with the database, if anything is. A slot that is lost leaves
// a blob nobody refers to, and a blob that is lost a slot; what it cannot see is a package of which neither is left.
func ndbHeaders(data []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		slots, err := ndbSlots(data)
		if err != nil {
			yield(nil, err)
			return
		}
		free := int64(binary.LittleEndian.Uint32(data[12:])) * ndbSlotPage
		for _, slot := range slots {
			header, err := slot.blob(data, free)
			if !yield(header, err) || err != nil {
				return
			}
			free = slot.offset + slot.bytes
		}
		if err := unreferenced(data[free:]); err != nil {
			yield(nil, err)
		}
	}
}

// ndbSlots returns the slots that are in use, by where their blobs lie.
func ndbSlots(data []byte) ([]ndbSlot, error) {
	number := func(at int) uint32 { return binary.LittleEndian.Uint32(data[at:]) }
	if version := number(4); version != 0 {
		return nil, fmt.Errorf("version %d", version)
	}
	pages := int64(number(12))
	if pages == 0 || pages > int64(len(data)/ndbSlotPage) || len(data)%ndbBlock != 0 {
		return nil, fmt.Errorf("%d bytes, with %d pages of slots", len(data), pages)
	}
	next := number(16)
	known := map[uint32]bool{}
	var slots []ndbSlot
	for at := ndbHeaderBytes; at < int(pages*ndbSlotPage); at += ndbBlock {
		if !bytes.HasPrefix(data[at:], []byte(ndbSlotMagic)) {
			return nil, fmt.Errorf("no slot at %d", at)
		}
		slot := ndbSlot{pkg: number(at + 4), offset: int64(number(at+8)) * ndbBlock, bytes: int64(number(at+12)) * ndbBlock}
		if slot == (ndbSlot{}) {
			continue
		}
		if slot.pkg == 0 || slot.pkg >= next || known[slot.pkg] || slot.bytes < ndbBlobHead+ndbBlobTail || slot.offset+slot.bytes > int64(len(data)) {
			return nil, fmt.Errorf("the slot at %d, of package %d, cannot be right", at, slot.pkg)
		}
		known[slot.pkg] = true
		slots = append(slots, slot)
	}
	slices.SortFunc(slots, func(a, b ndbSlot) int { return cmp.Compare(a.offset, b.offset) })
	return slots, nil
}

// blob returns the header s refers to. Up to it, from where the one before ended, there is nothing.
func (s ndbSlot) blob(data []byte, free int64) ([]byte, error) {
	if s.offset < free {
		return nil, fmt.Errorf("package %d lies within another, or within slots", s.pkg)
	}
	if err := unreferenced(data[free:s.offset]); err != nil {
		return nil, err
	}
	blob := data[s.offset:][:s.bytes]
	size := int64(binary.LittleEndian.Uint32(blob[12:]))
	tail := blob[len(blob)-ndbBlobTail:]
	switch needs := (ndbBlobHead + size + ndbBlobTail + ndbBlock - 1) / ndbBlock * ndbBlock; {
	case !bytes.HasPrefix(blob, []byte(ndbBlobMagic)) || binary.LittleEndian.Uint32(blob[4:]) != s.pkg:
		return nil, fmt.Errorf("package %d is not where its slot says", s.pkg)
	case needs != s.bytes || binary.LittleEndian.Uint32(tail[4:]) != uint32(size) || string(tail[8:]) != ndbTailMagic:
		return nil, fmt.Errorf("package %d has another length than its slot says", s.pkg)
	case adler32.Checksum(blob[:len(blob)-ndbBlobTail]) != binary.LittleEndian.Uint32(tail):
		return nil, fmt.Errorf("package %d has another checksum than it states", s.pkg)
	}
	return blob[ndbBlobHead:][:size], nil
}

// unreferenced returns an error unless free is zeros.
func unreferenced(free []byte) error {
	if len(bytes.TrimLeft(free, "\x00")) > 0 {
		return errors.New("something lies where nothing refers to")
	}
	return nil
}
