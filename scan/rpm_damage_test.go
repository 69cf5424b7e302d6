package scan

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// damage is one thing that is wrong with a database.
type damage struct {
	name string
	do   func(db []byte) []byte
}

func put(at int, with []byte) func(db []byte) []byte {
	return func(db []byte) []byte {
		copy(db[at:], with)
		return db
	}
}

// TestDamagedRPMDatabases has databases of every format damaged in ways that lose packages or lead in a circle. A damaged
// database is a gap of one reader, and the test ends: nothing is followed forever.
func TestDamagedRPMDatabases(t *testing.T) {
	none := make([]byte, 4096)
	for _, tt := range []struct {
		file, path string
		damages    []damage
	}{
		{"libuuid/Packages", "var/lib/rpm/Packages", []damage{
			{"cut short", func(db []byte) []byte { return db[:len(db)-4096] }},
			{"empty", func([]byte) []byte { return nil }},
		}},
		{"centos7-plain/Packages", "var/lib/rpm/Packages", []damage{
			{"a hash page zeroed", put(4096, none)},
			{"an overflow page zeroed", put(12288, none)},
			{"an overflow page that is its own successor", put(12288+16, []byte{3, 0, 0, 0})},
			{"fewer entries on a page", put(4096+20, []byte{2, 0})},
			{"one package twice for two", func(db []byte) []byte {
				first := binary.LittleEndian.Uint16(db[4096+26+2:])
				second := binary.LittleEndian.Uint16(db[4096+26+6:])
				copy(db[4096+int(second):][:12], db[4096+int(first):])
				return db
			}},
			{"a package's number zeroed", func(db []byte) []byte {
				copy(db[4096+int(binary.LittleEndian.Uint16(db[4096+26+4:]))+1:], none[:4])
				return db
			}},
			{"a last page that is not", put(32, []byte{2, 0, 0, 0})},
			{"fewer records said to be", put(88, []byte{10})},
			{"a name that says something else", func(db []byte) []byte {
				return bytes.Replace(db, []byte("bind-license\x00"), []byte("bind-licence\x00"), 1)
			}},
		}},
		{"sle15-bci/Packages.db", "var/lib/rpm/Packages.db", []damage{
			{"a slot freed", put(32+16*7+4, none[:12])},
			{"a slot that names no package", put(32+16*7+4, none[:4])},
			{"all slots freed", func(db []byte) []byte {
				for at := 32; at < 4096; at += 16 {
					copy(db[at+4:], none[:12])
				}
				return db
			}},
			{"no slot page", put(12, []byte{0})},
			{"more slot pages", put(12, []byte{2})},
			{"a slot's mark gone", put(32+16*7, []byte("Nope"))},
			{"one slot twice for two", func(db []byte) []byte {
				copy(db[32+16*7:][:16], db[32+16*6:])
				return db
			}},
			{"a blob zeroed", put(4096+4*16, none)},
			{"a name that says something else", func(db []byte) []byte { return bytes.Replace(db, []byte("\x00bash\x00"), []byte("\x00bush\x00"), 1) }},
			{"cut short", func(db []byte) []byte { return db[:len(db)-4096] }},
		}},
		{"fedora35/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite", []damage{
			{"a name that says something else", func(db []byte) []byte { return bytes.Replace(db, []byte("\x00bash\x00"), []byte("\x00bush\x00"), 1) }},
			{"cut short", func(db []byte) []byte { return db[:len(db)-4096] }},
		}},
	} {
		for _, d := range tt.damages {
			t.Run(tt.file+", "+d.name, func(t *testing.T) {
				got := readTar(t, regular(tt.path, string(d.do(libraryDatabase(t, tt.file)))))
				if kinds := gapKinds(got.Gaps); !slices.Equal(kinds, []gate.GapKind{gate.GapUnreadablePackage}) {
					n := 0
					for _, f := range got.Files {
						n += len(f.Packages)
					}
					t.Errorf("%d packages, gaps %v, want one of kind %s", n, got.Gaps, gate.GapUnreadablePackage)
				}
			})
		}
	}
}

// readDatabase returns what is read of db, by name.
func readDatabase(ctx context.Context, t testing.TB, db []byte) ([]gate.Package, error) {
	t.Helper()
	packages, err := readRPM(ctx, t.TempDir(), db, func(string, []fileDigest) {})
	slices.SortStableFunc(packages, byName)
	return packages, err
}

// TestDamagedPagesOfRPMDatabases has pages of databases overwritten, one at a time: each is seen, or nothing is missing.
func TestDamagedPagesOfRPMDatabases(t *testing.T) {
	for _, tt := range []struct {
		file string
		step int // in pages
	}{
		{"libuuid/Packages", 1}, {"ubi8-s390x/Packages", 251}, {"centos5-plain/Packages", 251}, {"sle15-bci/Packages.db", 11},
		{"cbl-mariner-2.0/rpmdb.sqlite", 29},
	} {
		t.Run(tt.file, func(t *testing.T) {
			const page = 4096
			sound := libraryDatabase(t, tt.file)
			want, err := readDatabase(t.Context(), t, sound)
			if err != nil {
				t.Fatal(err)
			}
			for at := 0; at+page <= len(sound); at += tt.step * page {
				for _, with := range []byte{0, 0xff, 7} {
					damaged := bytes.Clone(sound)
					copy(damaged[at:], bytes.Repeat([]byte{with}, page))
					if got, err := readDatabase(t.Context(), t, damaged); err == nil && !gocmp.Equal(want, got) {
						t.Errorf("page at %d made %d: %d packages of %d and no error", at, with, len(got), len(want))
					}
				}
			}
		})
	}
}

func TestErasedRPMIsNoDamage(t *testing.T) {
	db := libraryDatabase(t, "sle15-bci/Packages.db")
	want, err := readDatabase(t.Context(), t, db)
	if err != nil {
		t.Fatal(err)
	}
	slot := db[32+16*7:][:16] // as rpm erases a package: its slot is free, and its blob zeros
	at, size := binary.LittleEndian.Uint32(slot[8:])*16, binary.LittleEndian.Uint32(slot[12:])*16
	clear(slot[4:])
	clear(db[at : at+size])
	if got, err := readDatabase(t.Context(), t, db); err != nil || len(got) != len(want)-1 {
		t.Errorf("%d packages, %v; want %d", len(got), err, len(want)-1)
	}
}

// sqliteWith returns an SQLite database made by statements.
func sqliteWith(t *testing.T, statements ...string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "db")
	db, err := sql.Open("sqlite", name)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestProgramsThatPassForRPMDatabases has databases that compute their rows. Those that can be told by looking are not run at all.
func TestProgramsThatPassForRPMDatabases(t *testing.T) {
	for name, statement := range map[string]string{
		"endless":   "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT x'00' UNION ALL SELECT blob FROM n) SELECT blob FROM n",
		"computing": "CREATE TABLE packages (hnum INTEGER PRIMARY KEY, blob AS (hex(zeroblob(100000000))))",
		"absent":    "CREATE TABLE Package (hnum INTEGER PRIMARY KEY, blob BLOB)",
	} {
		t.Run(name, func(t *testing.T) {
			got := readTar(t, regular("var/lib/rpm/rpmdb.sqlite", string(sqliteWith(t, statement))))
			if kinds := gapKinds(got.Gaps); !slices.Equal(kinds, []gate.GapKind{gate.GapUnreadablePackage}) {
				t.Errorf("gaps %v, want one of kind %s", got.Gaps, gate.GapUnreadablePackage)
			}
		})
	}
}

func TestReadingAnRPMDatabaseEnds(t *testing.T) {
	for _, file := range []string{"libuuid/Packages", "sle15-bci/Packages.db", "fedora35/rpmdb.sqlite"} {
		t.Run(file+", past its deadline", func(t *testing.T) {
			ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
			defer cancel()
			if _, err := readDatabase(ctx, t, libraryDatabase(t, file)); kindOf(err, "") != gate.GapLimit {
				t.Errorf("%v, want a limit", err)
			}
		})
	}
	t.Run("a check of days", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		db := sqliteWith(t, "CREATE TABLE Packages (blob BLOB)",
			"INSERT INTO Packages WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 100000) SELECT i FROM n",
			"PRAGMA writable_schema = on",
			"UPDATE sqlite_master SET sql = 'CREATE TABLE Packages (blob BLOB, CHECK (length(hex(zeroblob(10000000))) > 0))'")
		if _, err := readDatabase(ctx, t, db); kindOf(err, "") != gate.GapLimit {
			t.Errorf("%v, want a limit", err)
		}
	})
}

// FuzzDamagedRPMDatabases flips bits of one word of a database: that is seen, or changes nothing.
func FuzzDamagedRPMDatabases(f *testing.F) {
	sound := [][]byte{libraryDatabase(f, "libuuid/Packages"), libraryDatabase(f, "sle15-bci/Packages.db")}
	var want [][]gate.Package
	for _, db := range sound {
		packages, err := readDatabase(f.Context(), f, db)
		if err != nil {
			f.Fatal(err)
		}
		want = append(want, packages)
	}
	f.Add(false, uint32(88), uint32(1))
	f.Add(true, uint32(12), uint32(3))
	f.Fuzz(func(t *testing.T, ndb bool, at, flip uint32) {
		i := 0
		if ndb {
			i = 1
		}
		db := bytes.Clone(sound[i])
		word := db[int(at)%(len(db)-3):][:4]
		binary.LittleEndian.PutUint32(word, binary.LittleEndian.Uint32(word)^flip)
		got, err := readDatabase(t.Context(), t, db)
		if diff := gocmp.Diff(want[i], got); err == nil && diff != "" {
			t.Errorf("no error, and packages (-sound +damaged):\n%s", diff)
		}
	})
}
