package scan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// pagesOf returns where in content, a database of one transaction and pages of 4096 bytes, the pages of a kind with at least two
// elements begin. bolt leaves the pages of an empty file, the first five, free.
func pagesOf(t *testing.T, content []byte, kind uint16) (at []int) {
	t.Helper()
	for page := 5 * 4096; page < len(content); page += 4096 {
		if binary.NativeEndian.Uint64(content[page:]) == uint64(page/4096) && binary.NativeEndian.Uint16(content[page+8:]) == kind && binary.NativeEndian.Uint16(content[page+10:]) > 1 {
			at = append(at, page)
		}
	}
	if len(at) == 0 {
		t.Fatalf("no page of kind %#x", kind)
	}
	return at
}

func TestCheckPagesRefuses(t *testing.T) {
	seed := damageSeed(t)
	branch, leaf := pagesOf(t, seed, branchPage)[0], pagesOf(t, seed, leafPage)[0]
	put16 := func(at int, v uint16) func([]byte) {
		return func(b []byte) { binary.NativeEndian.PutUint16(b[at:], v) }
	}
	put32 := func(at int, v uint32) func([]byte) {
		return func(b []byte) { binary.NativeEndian.PutUint32(b[at:], v) }
	}
	put64 := func(at int, v uint64) func([]byte) {
		return func(b []byte) { binary.NativeEndian.PutUint64(b[at:], v) }
	}
	const first, second = pageHeaderBytes, pageHeaderBytes + pageElementBytes
	for name, damage := range map[string]func([]byte){
		"a page that is its own child": func(b []byte) {
			for i := range int(binary.NativeEndian.Uint16(b[branch+10:])) {
				put64(branch+first+i*pageElementBytes+8, uint64(branch/4096))(b)
			}
		},
		"a page with two parents":               func(b []byte) { copy(b[branch+second+8:branch+second+16], b[branch+first+8:]) },
		"a root for a child":                    put64(branch+first+8, 1),
		"a child behind the end":                put64(branch+first+8, 1<<40),
		"a child that is a free list":           put16(branch+8, 0x10),
		"no children":                           put16(branch+10, 0),
		"more children than fit":                put16(branch+10, 0xffff),
		"a key behind the end of a branch":      put32(branch+first, 1<<31),
		"a key longer than its page":            put32(branch+first+4, 1<<30),
		"a key without bytes":                   put32(branch+first+4, 0),
		"a key inside the elements":             put32(branch+first, 0),
		"a page that thinks it is another":      put64(leaf, 3),
		"a page that runs on behind the end":    put32(leaf+12, 1<<31),
		"a page that runs on into another":      put32(branch+12, 1),
		"more rows than fit":                    put16(leaf+10, 0xffff),
		"a row behind the end of a leaf":        put32(leaf+first+4, 1<<20),
		"a key longer than a leaf":              put32(leaf+first+8, 1<<31),
		"a value longer than a leaf":            put32(leaf+first+12, 1<<31),
		"a row of unknown nature":               put32(leaf+first, 2),
		"a leaf of unknown kind":                put16(leaf+8, 0x40),
		"a leaf that is branch and leaf":        put16(leaf+8, branchPage|leafPage),
		"keys out of order":                     func(b []byte) { b[leaf+first+int(binary.NativeEndian.Uint32(b[leaf+first+4:]))] = 0xff },
		"a first root that leads nowhere":       func(b []byte) { put64(4096+pageHeaderBytes+16, 1<<33)(b); put64(pageHeaderBytes+16, 1<<33)(b) },
		"roots of different page sizes":         put32(4096+pageHeaderBytes+8, 8192),
		"a page size that is no power of two":   put32(pageHeaderBytes+8, 5000),
		"a page size of nothing":                put32(pageHeaderBytes+8, 0),
		"a layout of another version":           put32(pageHeaderBytes+4, 3),
		"more pages than bytes":                 func(b []byte) { put64(pageHeaderBytes+40, 1<<40)(b); put64(4096+pageHeaderBytes+40, 1<<40)(b) },
		"a root that is not marked as one":      put16(8, leafPage),
		"a second root that is not marked such": put16(4096+8, leafPage),
	} {
		t.Run(name, func(t *testing.T) {
			content := bytes.Clone(seed)
			damage(content)
			content = resealed(content)
			if err := checkPages(bytes.NewReader(content), int64(len(content))); !errors.Is(err, errDamagedFile) {
				t.Errorf("got %v, want that the file is damaged", err)
			}
			matchDamaged(t, content) // which must not get to see it
		})
	}
	t.Run("a root whose checksum is wrong", func(t *testing.T) {
		content := bytes.Clone(seed)
		content[pageHeaderBytes+50]++
		if err := checkPages(bytes.NewReader(content), int64(len(content))); !errors.Is(err, errDamagedFile) {
			t.Errorf("got %v, want that the file is damaged", err)
		}
	})
	t.Run("every length but the whole", func(t *testing.T) {
		used := int(binary.NativeEndian.Uint64(seed[pageHeaderBytes+40:])) * 4096 // bolt leaves room behind what it uses
		for n := 0; n < used; n += 1000 {
			if err := checkPages(bytes.NewReader(seed[:n]), int64(n)); !errors.Is(err, errDamagedFile) {
				t.Errorf("%d of %d bytes: %v", n, len(seed), err)
			}
		}
	})
}

func TestCheckBucketRefuses(t *testing.T) {
	// A bucket in place: header, page header of a leaf with one element, the element, its key and value.
	bucket := func(root uint64, kind, count uint16, flags uint32) []byte {
		b := make([]byte, bucketHeaderBytes+pageHeaderBytes+pageElementBytes, 100)
		binary.NativeEndian.PutUint64(b, root)
		page := b[bucketHeaderBytes:]
		binary.NativeEndian.PutUint16(page[8:], kind)
		binary.NativeEndian.PutUint16(page[10:], count)
		e := page[pageHeaderBytes:]
		for i, v := range []uint32{flags, pageElementBytes, 1, 1} {
			binary.NativeEndian.PutUint32(e[i*4:], v)
		}
		return append(b, "kv"...)
	}
	for _, test := range []struct {
		name  string
		value []byte
		want  bool
	}{
		{"in place", bucket(0, leafPage, 1, 0), true},
		{"in place, empty", bucket(0, leafPage, 0, 0), true},
		{"elsewhere", bucket(7, leafPage, 1, 0)[:bucketHeaderBytes], true},
		{"without a header", []byte("short"), false},
		{"without a page", bucket(0, leafPage, 1, 0)[:bucketHeaderBytes+4], false},
		{"in place, cut off", bucket(0, leafPage, 1, 0)[:bucketHeaderBytes+pageHeaderBytes+pageElementBytes+1], false},
		{"in place, a branch", bucket(0, branchPage, 1, 0), false},
		{"in place, more than there is", bucket(0, leafPage, 100, 0), false},
		{"in place, with a bucket in it", bucket(0, leafPage, 1, bucketElement), false},
	} {
		c := pageCheck{}
		if got := c.checkBucket(test.value); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
}

// resealed returns content with the checksums of its roots put right, so that damage reaches beyond them.
func resealed(content []byte) []byte {
	for _, at := range []int{pageHeaderBytes, 4096 + pageHeaderBytes} {
		if len(content) < at+metaBytes {
			continue
		}
		sum := fnv.New64a()
		_, _ = sum.Write(content[at : at+metaChecksumOffset])
		binary.NativeEndian.PutUint64(content[at+metaChecksumOffset:], sum.Sum64())
	}
	return content
}

// matchDamaged opens content as a database and matches by it, if it can. Whatever happens has to be an answer.
func matchDamaged(t *testing.T, content []byte) {
	t.Helper()
	dir := t.TempDir()
	writeTestFile(t, filepath.Join(dir, databaseName), content)
	a, err := OpenAdvisories(t.Context(), dir, 0, func() time.Time { return time.Now().Add(time.Hour) })
	if err != nil {
		return
	}
	defer func() { _ = a.Close() }()
	for _, inv := range []gate.Inventory{
		inventory(gate.OS{ID: "debian", Version: "12"}, "deb/tar@1.34", "deb/zlib@1"),
		inventory(gate.OS{ID: "rhel", Version: "9"}, "rpm/openssl@1-1", "npm/lodash@4.17.4", "pypi/jinja2@2", "maven/org.apache.logging.log4j:log4j-core@2.14.1"),
	} {
		_, _, _ = a.Match(t.Context(), a.Snapshot(), inv) // any answer will do
	}
}

func damageSeed(t testing.TB) []byte {
	dir := t.TempDir()
	rows := append(realRows, systemRows...)
	for i := range 200 {
		rows = append(rows, ocitest.Advisory{Bucket: "debian 12", Package: fmt.Sprint("p", i), ID: fmt.Sprint("CVE-", i), Source: "debian", Fixed: "1"})
	}
	writeTestAdvisories(t, dir, rows, nil)
	return readTestFile(t, filepath.Join(dir, databaseName))
}

func TestDamagedDatabasesNeverCrash(t *testing.T) {
	seed := damageSeed(t)
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		content := bytes.Clone(seed)
		for range 1 + random.IntN(8) {
			page := random.IntN(len(content) / 4096)
			at := page*4096 + random.IntN(256) // where headers and elements are
			content[at] = byte(random.IntN(256))
		}
		matchDamaged(t, resealed(content))
	}
}

func FuzzDamagedDatabase(f *testing.F) {
	f.Add(uint32(16), []byte{1}, uint32(8192), []byte{2})
	seed := damageSeed(f)
	f.Fuzz(func(t *testing.T, at1 uint32, put1 []byte, at2 uint32, put2 []byte) {
		content := bytes.Clone(seed)
		copy(content[int(at1)%len(content):], put1)
		copy(content[int(at2)%len(content):], put2)
		matchDamaged(t, resealed(content))
	})
}

func TestCheckPagesAgreesWithBolt(t *testing.T) {
	content := damageSeed(t)
	if err := checkPages(bytes.NewReader(content), int64(len(content))); err != nil {
		t.Errorf("a sound file: %v", err)
	}
	path := filepath.Join(t.TempDir(), "big.db")
	b, err := bolt.Open(path, 0o644, &bolt.Options{PageSize: 1024, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 4 { // several transactions leave free pages full of old content
		err := b.Update(func(tx *bolt.Tx) error {
			for i := range 3000 {
				outer, err := tx.CreateBucketIfNotExists(fmt.Append(nil, "bucket", i%7))
				if err != nil {
					return err
				}
				inner, err := outer.CreateBucketIfNotExists(fmt.Append(nil, "package", i%500))
				if err != nil {
					return err
				}
				if err := inner.Put(fmt.Append(nil, "row", i), bytes.Repeat([]byte{byte(i)}, (i*round)%5000)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	content = readTestFile(t, path)
	if err := checkPages(bytes.NewReader(content), int64(len(content))); err != nil {
		t.Errorf("a sound file of small pages: %v", err)
	}
}
