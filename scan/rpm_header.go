package scan

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"

	"github.com/tidewaiter/tidewaiter/gate"
)

// A header is what rpm knows of a package, the same in every database: the number of entries, the number of bytes they point into, the
// entries (tag, type, offset, count) and the bytes, in network order.
const (
	rpmEntryBytes  = 16
	rpmMaxEntries  = 1<<16 - 1 // as many as rpm takes
	rpmPrefixBytes = 8
)

// Tags of a header.
const (
	rpmTagImmutable   = 63 // the entries that were in the package's file
	rpmTagSHA1        = 269
	rpmTagSHA256      = 273
	rpmTagName        = 1000
	rpmTagVersion     = 1001
	rpmTagRelease     = 1002
	rpmTagEpoch       = 1003
	rpmTagVendor      = 1011
	rpmTagLicense     = 1014
	rpmTagArch        = 1022
	rpmTagFileDigests = 1035
	rpmTagSourceRPM   = 1044
	rpmTagDirIndexes  = 1116
	rpmTagBaseNames   = 1117
	rpmTagDirNames    = 1118
	rpmTagModuleLabel = 5096
)

// Types of entries.
const (
	rpmTypeInt32      = 4
	rpmTypeString     = 6
	rpmTypeBin        = 7
	rpmTypeStrings    = 8
	rpmTypeI18NString = 9
)

// rpmTypeBytes are the bytes of one value, by type; of strings at least, as each has an end.
var rpmTypeBytes = [...]int64{0, 1, 1, 2, 4, 8, 1, 1, 1, 1}

// rpmEntry is one of a header: count values of a type, from the beginning of data on.
type rpmEntry struct {
	tag, kind, count uint32
	data             []byte
}

// rpmHeader is what one package's header says.
type rpmHeader map[uint32]rpmEntry

// parseRPMHeader takes raw apart. What a header states of its own checksum is compared: rpm does not believe one that is another.
func parseRPMHeader(raw []byte) (rpmHeader, error) {
	if len(raw) < rpmPrefixBytes {
		return nil, fmt.Errorf("a header of %d bytes", len(raw))
	}
	entries, size := int64(binary.BigEndian.Uint32(raw)), int64(binary.BigEndian.Uint32(raw[4:]))
	if entries == 0 || entries > rpmMaxEntries || rpmPrefixBytes+entries*rpmEntryBytes+size != int64(len(raw)) {
		return nil, fmt.Errorf("a header of %d bytes that says it has %d entries about %d", len(raw), entries, size)
	}
	index, data := raw[rpmPrefixBytes:][:entries*rpmEntryBytes], raw[rpmPrefixBytes+entries*rpmEntryBytes:]
	h := rpmHeader{}
	for at := 0; at < len(index); at += rpmEntryBytes {
		number := func(i int) uint32 { return binary.BigEndian.Uint32(index[at+i:]) }
		e := rpmEntry{tag: number(0), kind: number(4), count: number(12)}
		offset := int64(number(8))
		if int(e.kind) >= len(rpmTypeBytes) || offset > size || int64(e.count)*rpmTypeBytes[e.kind] > size-offset {
			return nil, fmt.Errorf("an entry for tag %d that points out of its header", e.tag)
		}
		e.data = data[offset:]
		h[e.tag] = e // a later one is in force, as rpm changed it
	}
	return h, h.verify(index, data)
}

// verify compares the checksums h states with those of its immutable part. Packages of rpm 3 and keys state none.
func (h rpmHeader) verify(index, data []byte) error {
	region, found := h[rpmTagImmutable]
	if !found && h[rpmTagSHA1].data == nil && h[rpmTagSHA256].data == nil {
		return nil
	}
	if region.kind != rpmTypeBin || region.count != rpmEntryBytes || len(region.data) < rpmEntryBytes {
		return errors.New("an immutable part that is none")
	}
	// At its end is an entry whose offset leads back to the beginning.
	entries := -int64(int32(binary.BigEndian.Uint32(region.data[8:])))
	if entries <= 0 || entries > int64(len(index)) || entries%rpmEntryBytes != 0 {
		return errors.New("an immutable part that does not begin with the header")
	}
	size := len(data) - len(region.data) + rpmEntryBytes
	signed := make([]byte, 0, 16+int(entries)+size)
	signed = append(signed, 0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0) // how a header begins in a file
	signed = binary.BigEndian.AppendUint32(signed, uint32(entries/rpmEntryBytes))
	signed = binary.BigEndian.AppendUint32(signed, uint32(size))
	signed = append(append(signed, index[:entries]...), data[:size]...)
	for tag, sum := range map[uint32]func() []byte{
		rpmTagSHA1:   func() []byte { s := sha1.Sum(signed); return s[:] },
		rpmTagSHA256: func() []byte { s := sha256.Sum256(signed); return s[:] },
	} {
		stated, err := h.text(tag)
		if err != nil {
			return err
		}
		if stated != "" && stated != hex.EncodeToString(sum()) {
			name, _ := h.text(rpmTagName) // which may be what is damaged
			return fmt.Errorf("the header of %q has another checksum than it states", name)
		}
	}
	return nil
}

// text returns the string h has for tag, the first if there are several; empty if there is none.
func (h rpmHeader) text(tag uint32) (string, error) {
	all, err := h.texts(tag, 1)
	if err != nil || len(all) == 0 || all[0] == "(none)" {
		return "", err
	}
	return all[0], nil
}

// texts returns the first strings h has for tag, at most limit.
func (h rpmHeader) texts(tag uint32, limit int) ([]string, error) {
	e, found := h[tag]
	if !found {
		return nil, nil
	}
	if e.kind != rpmTypeString && e.kind != rpmTypeStrings && e.kind != rpmTypeI18NString {
		return nil, fmt.Errorf("tag %d is of type %d and no text", tag, e.kind)
	}
	n := min(int(e.count), limit)
	all := make([]string, n)
	rest := e.data
	for i := range all {
		text, after, ended := bytes.Cut(rest, []byte{0})
		if !ended {
			return nil, fmt.Errorf("a text of tag %d has no end", tag)
		}
		all[i], rest = string(text), after
	}
	return all, nil
}

// numbers returns the numbers h has for tag.
func (h rpmHeader) numbers(tag uint32) ([]uint32, error) {
	e, found := h[tag]
	if !found {
		return nil, nil
	}
	if e.kind != rpmTypeInt32 {
		return nil, fmt.Errorf("tag %d is of type %d and no numbers", tag, e.kind)
	}
	all := make([]uint32, e.count)
	for i := range all {
		all[i] = binary.BigEndian.Uint32(e.data[4*i:])
	}
	return all, nil
}

// pkg returns the package h tells of.
func (h rpmHeader) pkg() (gate.Package, error) {
	var errs []error
	text := func(tag uint32) string {
		s, err := h.text(tag)
		errs = append(errs, err)
		return s
	}
	p := gate.Package{Type: "rpm", Name: text(rpmTagName), Arch: text(rpmTagArch), Modularity: text(rpmTagModuleLabel)}
	version, release := text(rpmTagVersion), text(rpmTagRelease)
	if license := text(rpmTagLicense); license != "" {
		p.Licenses = []string{license}
	}
	epochs, err := h.numbers(rpmTagEpoch)
	epoch := ""
	if len(epochs) > 0 && epochs[0] > 0 {
		epoch = fmt.Sprintf("%d:", epochs[0])
	}
	p.Version = epoch + version + "-" + release
	if name, version, ok := splitSourceRPM(text(rpmTagSourceRPM)); ok {
		setSource(&p, name, epoch+version)
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return gate.Package{}, err
	}
	if p.Name == "" || version == "" || release == "" {
		return gate.Package{}, fmt.Errorf("a package called %q of version %q and release %q", p.Name, version, release)
	}
	return p, nil
}

// maxRPMFileBytes bounds the names of one package's files: each may repeat the name of a directory that is stored once. Those of
// the largest packages have 10 MiB.
const maxRPMFileBytes = 64 << 20

// files returns the files h says are the package's; none if what it says of them does not fit together.
func (h rpmHeader) files() []string {
	dirs, err1 := h.texts(rpmTagDirNames, maxOwnedPaths)
	names, err2 := h.texts(rpmTagBaseNames, maxOwnedPaths)
	in, err3 := h.numbers(rpmTagDirIndexes)
	if errors.Join(err1, err2, err3) != nil || len(in) != len(names) {
		return nil
	}
	files := make([]string, len(names))
	held := 0
	for i, name := range names {
		if int64(in[i]) >= int64(len(dirs)) {
			return nil
		}
		dir := dirs[in[i]]
		if held += len(dir) + len(name); held > maxRPMFileBytes {
			return nil
		}
		files[i] = path.Join(dir, name)
	}
	return files
}
