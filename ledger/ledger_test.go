package ledger

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

var errDisk = errors.New("input/output error")

func inventory(layer string) gate.LayerInventory {
	return gate.LayerInventory{
		Format: gate.InventoryFormat, Layer: oci.FromBytes([]byte(layer)), DiffID: oci.FromBytes([]byte("tar of " + layer)),
		UncompressedBytes: 1 << 33, Entries: 3,
		Files: []gate.FileInventory{
			{Path: "etc/empty"},
			{Path: "var/lib/dpkg/status", Packages: []gate.Package{
				{Type: "deb", Name: "openssl", Version: "1:3.0~<&>\u2028", Licenses: []string{"MIT"}},
			}},
		},
		Whiteouts: []string{"usr/bin/gone"}, Opaque: []string{"."},
		OSRelease: map[string]gate.OS{"etc/os-release": {ID: "debian", Version: "12"}},
		Gaps:      []gate.Gap{{Kind: gate.GapLimit, Path: "big", Why: "larger than we examine"}},
	}
}

// wantInventory fails unless l has want of its layer.
func wantInventory(t *testing.T, l *Ledger, want gate.LayerInventory) {
	t.Helper()
	got, ok, err := l.Inventory(t.Context(), want.Layer)
	if !ok || err != nil {
		t.Fatalf("Inventory: got %v, %v, want it", ok, err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("Inventory (-got +want):\n%s", diff)
	}
}

// wantNoInventory fails unless l has none of layer, as a fact.
func wantNoInventory(t *testing.T, l *Ledger, layer oci.Digest) {
	t.Helper()
	got, ok, err := l.Inventory(t.Context(), layer)
	if diff := cmp.Diff(got, gate.LayerInventory{}); ok || err != nil || diff != "" {
		t.Errorf("Inventory: got %v, %v, want none (-got +want):\n%s", ok, err, diff)
	}
}

func mustRecord(t *testing.T, l *Ledger, inv gate.LayerInventory) {
	t.Helper()
	if err := l.RecordInventory(t.Context(), inv); err != nil {
		t.Fatalf("RecordInventory: %v", err)
	}
}

func TestInventoriesSurviveARestart(t *testing.T) {
	for name, s := range map[string]*storage{"in memory": inMemory(), "on disk": onDisk(t)} {
		t.Run(name, func(t *testing.T) {
			inv := inventory("a")
			mustRecord(t, openLedger(t, s, &clock{}), inv)
			wantInventory(t, openLedger(t, s, &clock{}), inv)
		})
	}
}

func TestALayerNobodyReadHasNoInventory(t *testing.T) {
	l := openLedger(t, onDisk(t), &clock{})
	mustRecord(t, l, inventory("a"))
	wantNoInventory(t, l, oci.FromBytes([]byte("b")))
	if got := l.Stats(); got != (Stats{}) {
		t.Errorf("Stats: got %+v, want none: never recorded is not broken", got)
	}
}

func TestRecordingAnInventoryAgainKeepsIt(t *testing.T) {
	l := openLedger(t, onDisk(t), &clock{})
	inv := inventory("a")
	mustRecord(t, l, inv)
	mustRecord(t, l, inv)
	wantInventory(t, l, inv)
}

// TestABrokenInventoryIsReadAgain covers what anybody who can write to the storage can make of a record.
func TestABrokenInventoryIsReadAgain(t *testing.T) {
	inv, other := inventory("a"), inventory("b")
	at, err := inventoryPath(inv.Layer)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := inventoryPath(other.Layer)
	if err != nil {
		t.Fatal(err)
	}
	earlier := inventory("a")
	earlier.Format--
	tests := []struct {
		name  string
		spoil func(*testing.T, *Ledger, *storage)
	}{
		{"altered", func(t *testing.T, _ *Ledger, s *storage) {
			content := s.get(t, at)
			content[len(content)/2] ^= 1
			s.put(t, at, content)
		}},
		{"truncated", func(t *testing.T, _ *Ledger, s *storage) { s.put(t, at, s.get(t, at)[:60]) }},
		{"empty", func(t *testing.T, _ *Ledger, s *storage) { s.put(t, at, nil) }},
		{"without a seal", func(t *testing.T, _ *Ledger, s *storage) { s.put(t, at, []byte(`{"format":1}`)) }},
		{"that of another layer", func(t *testing.T, _ *Ledger, s *storage) { s.put(t, at, s.get(t, elsewhere)) }},
		{"larger than any", func(t *testing.T, l *Ledger, s *storage) {
			l.limits.inventory.storedBytes = int64(len(s.get(t, at)))
			s.put(t, at, append(s.get(t, at), 0))
		}},
		{"a bomb", func(_ *testing.T, l *Ledger, _ *storage) { l.limits.inventory.plainBytes = 500 }},
		{"sealed with another key", func(t *testing.T, _ *Ledger, s *storage) {
			stranger := New(s, testKey(t, "another"), slog.New(slog.DiscardHandler), (&clock{}).now)
			mustRecord(t, stranger, inv)
		}},
		{"sealed for it, of another layer", func(t *testing.T, l *Ledger, s *storage) { place(t, l, s, "", at, other) }},
		{"sealed for it, of another format", func(t *testing.T, l *Ledger, s *storage) { place(t, l, s, "", at, earlier) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := inMemory()
			l := openLedger(t, s, &clock{})
			mustRecord(t, l, inv)
			mustRecord(t, l, other)
			tt.spoil(t, l, s)
			wantNoInventory(t, l, inv.Layer)
			if got, want := l.Stats(), (Stats{BrokenInventories: 1}); got != want {
				t.Errorf("Stats: got %+v, want %+v", got, want)
			}
			l.limits = production
			wantInventory(t, l, other)
			mustRecord(t, l, inv)
			wantInventory(t, l, inv)
		})
	}
}

func TestAnUnreachableStorageIsAnErrorNotAFact(t *testing.T) {
	s := inMemory()
	l := openLedger(t, s, &clock{})
	inv := inventory("a")
	mustRecord(t, l, inv)
	s.failing("Reader", errDisk)
	if _, ok, err := l.Inventory(t.Context(), inv.Layer); ok || !errors.Is(err, errDisk) {
		t.Errorf("Inventory: got %v, %v, want the driver's error", ok, err)
	}
	s.failing("PutContent", errDisk)
	if err := l.RecordInventory(t.Context(), inv); !errors.Is(err, errDisk) {
		t.Errorf("RecordInventory: got %v, want the driver's error", err)
	}
	if got := l.Stats(); got != (Stats{}) {
		t.Errorf("Stats: got %+v, want none", got)
	}
}

func TestRecordInventoryRefuses(t *testing.T) {
	for name, change := range map[string]func(*gate.LayerInventory){
		"another format":     func(inv *gate.LayerInventory) { inv.Format++ },
		"the zero inventory": func(inv *gate.LayerInventory) { *inv = gate.LayerInventory{} },
		"no layer":           func(inv *gate.LayerInventory) { inv.Layer = "" },
		"a layer that leads elsewhere": func(inv *gate.LayerInventory) {
			inv.Layer = "sha256:../../../../" + oci.Digest(strings.Repeat("a", 52))
		},
		"a digest of another algorithm": func(inv *gate.LayerInventory) { inv.Layer = "sha512:" + oci.Digest(strings.Repeat("a", 128)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := inMemory()
			inv := inventory("a")
			change(&inv)
			if err := openLedger(t, s, &clock{}).RecordInventory(t.Context(), inv); err == nil {
				t.Error("got no error")
			}
			if got := s.called()["PutContent"]; got != 0 {
				t.Errorf("got %d writes, want none", got)
			}
		})
	}
}

func TestInventoryRefusesADigestThatIsNone(t *testing.T) {
	l := openLedger(t, inMemory(), &clock{})
	for _, layer := range []oci.Digest{"", "sha256:", "sha256:../../etc/passwd", "a"} {
		if _, ok, err := l.Inventory(t.Context(), layer); ok || !errors.Is(err, oci.ErrDigestInvalid) {
			t.Errorf("Inventory(%q): got %v, %v, want oci.ErrDigestInvalid", layer, ok, err)
		}
	}
}

func TestWhatIsNotBelievedIsLogged(t *testing.T) {
	var out bytes.Buffer
	s := inMemory()
	l := New(s, testKey(t, "one"), slog.New(slog.NewTextHandler(&out, nil)), (&clock{}).now)
	inv := inventory("a")
	mustRecord(t, l, inv)
	record(t, l, admission(candidate(nginx, "a"), "k"))
	at, err := inventoryPath(inv.Layer)
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, at, nil)
	s.put(t, s.records(t, nginx)[0], nil)
	restarted := New(s, testKey(t, "one"), slog.New(slog.NewTextHandler(&out, nil)), (&clock{}).now)
	wantNoInventory(t, restarted, inv.Layer)
	wantReleased(t, restarted, candidate(nginx, "a"), false)
	for _, want := range []string{"level=WARN", "digest=" + inv.Layer.String(), "repo=docker.io/library/nginx"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log: got %s, want %s in it", out.String(), want)
		}
	}
}
