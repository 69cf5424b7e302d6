package scan

import (
	"encoding/binary"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// headerEntry is an entry of a header that is made up.
type headerEntry struct {
	tag, kind, offset, count uint32
}

// headerOf returns a header of entries that point into data.
func headerOf(data string, entries ...headerEntry) []byte {
	raw := binary.BigEndian.AppendUint32(nil, uint32(len(entries)))
	raw = binary.BigEndian.AppendUint32(raw, uint32(len(data)))
	for _, e := range entries {
		for _, n := range []uint32{e.tag, e.kind, e.offset, e.count} {
			raw = binary.BigEndian.AppendUint32(raw, n)
		}
	}
	return append(raw, data...)
}

func TestRPMHeader(t *testing.T) {
	const data = "a\x001\x002\x00\x00\x00\x00\x07b\x00"
	name, version, release := headerEntry{rpmTagName, rpmTypeString, 0, 1}, headerEntry{rpmTagVersion, rpmTypeString, 2, 1}, headerEntry{rpmTagRelease, rpmTypeString, 4, 1}
	whole := gate.Package{Type: "rpm", Name: "a", Version: "1-2"}
	for _, tt := range []struct {
		name string
		raw  []byte
		want gate.Package
		ok   bool
	}{
		{"whole", headerOf(data, name, version, release), whole, true},
		{"with an epoch", headerOf(data, name, version, release, headerEntry{rpmTagEpoch, rpmTypeInt32, 6, 1}), gate.Package{Type: "rpm", Name: "a", Version: "7:1-2"}, true},
		{"with a name rpm changed", headerOf(data, name, version, release, headerEntry{rpmTagName, rpmTypeString, 10, 1}), gate.Package{Type: "rpm", Name: "b", Version: "1-2"}, true},
		{"without a name", headerOf(data, version, release), gate.Package{}, false},
		{"without a version", headerOf(data, name, release), gate.Package{}, false},
		{"without a release", headerOf(data, name, version), gate.Package{}, false},
		{"with a name that is empty", headerOf(data, headerEntry{rpmTagName, rpmTypeString, 1, 1}, version, release), gate.Package{}, false},
		{"with a name that is a number", headerOf(data, headerEntry{rpmTagName, rpmTypeInt32, 6, 1}, version, release), gate.Package{}, false},
		{"with an epoch that is text", headerOf(data, name, version, release, headerEntry{rpmTagEpoch, rpmTypeString, 0, 1}), gate.Package{}, false},
		{"with a name without an end", headerOf("1\x002\x00a", headerEntry{rpmTagName, rpmTypeString, 4, 1}, headerEntry{rpmTagVersion, rpmTypeString, 0, 1}, headerEntry{rpmTagRelease, rpmTypeString, 2, 1}), gate.Package{}, false},
		{"with an entry past its end", headerOf(data, name, version, release, headerEntry{rpmTagVendor, rpmTypeString, 13, 1}), gate.Package{}, false},
		{"with more texts than bytes", headerOf(data, name, version, release, headerEntry{rpmTagBaseNames, rpmTypeStrings, 0, 1<<32 - 1}), gate.Package{}, false},
		{"with a type that is none", headerOf(data, name, version, release, headerEntry{rpmTagBaseNames, 99, 0, 1}), gate.Package{}, false},
		{"with a checksum of nothing", headerOf(data, name, version, release, headerEntry{rpmTagSHA1, rpmTypeString, 0, 1}), gate.Package{}, false},
		{"without entries", headerOf(data), gate.Package{}, false},
		{"cut short", headerOf(data, name, version, release)[:40], gate.Package{}, false},
		{"empty", nil, gate.Package{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header, err := parseRPMHeader(tt.raw)
			var got gate.Package
			if err == nil {
				got, err = header.pkg()
			}
			if diff := gocmp.Diff(tt.want, got); diff != "" || (err == nil) != tt.ok {
				t.Errorf("%v, package (-want +got):\n%s", err, diff)
			}
		})
	}
}

// FuzzRPMHeader reads a header that is anything: it ends, and names no package that is not one.
func FuzzRPMHeader(f *testing.F) {
	f.Add(headerOf("a\x001\x002\x00/\x00b\x00\x00\x00\x00\x00", headerEntry{rpmTagName, rpmTypeString, 0, 1}, headerEntry{rpmTagVersion, rpmTypeString, 2, 1},
		headerEntry{rpmTagRelease, rpmTypeString, 4, 1}, headerEntry{rpmTagDirNames, rpmTypeStrings, 6, 1}, headerEntry{rpmTagBaseNames, rpmTypeStrings, 8, 1},
		headerEntry{rpmTagDirIndexes, rpmTypeInt32, 10, 1}))
	region := "\x00\x00\x00\x3f\x00\x00\x00\x07\xff\xff\xff\xf0\x00\x00\x00\x10"
	f.Add(headerOf(region+"a\x001\x002\x00", headerEntry{rpmTagImmutable, rpmTypeBin, 0, 16}, headerEntry{rpmTagName, rpmTypeString, 16, 1},
		headerEntry{rpmTagVersion, rpmTypeString, 18, 1}, headerEntry{rpmTagRelease, rpmTypeString, 20, 1}, headerEntry{rpmTagSHA1, rpmTypeString, 16, 1}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		header, err := parseRPMHeader(raw)
		if err != nil {
			return
		}
		if p, err := header.pkg(); err == nil && (p.Name == "" || p.Version == "") {
			t.Errorf("package %+v", p)
		}
		header.files()
	})
}
