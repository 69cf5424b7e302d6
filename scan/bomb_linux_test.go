package scan

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

const gib = 1 << 10 // MiB

// bomb is a layer that is made to cost whoever reads it more than it should.
type bomb struct {
	name     string
	unpacked string // what it is, or says it is, without compression and holes
	layer    func(t testing.TB) []byte
	want     []gate.GapKind // one of; nil for no gap
	// mostMiB and mostSeconds bound what the process that reads it may take: half as much memory again as it was seen to take, and several
	// times the processor time, which depends on the machine.
	mostMiB, mostSeconds int64
	heavy                bool // it takes seconds
}

var bombs = []bomb{
	{
		"gzip of zeros", "8 GiB", func(t testing.TB) []byte { return gzipBomb(t, nil, mib, 8*gib) },
		[]gate.GapKind{gate.GapLimit}, 64, 10, true,
	},
	{
		"gzip of a file of zeros", "8 GiB",
		func(t testing.TB) []byte {
			return gzipBomb(t, entryOf(t, tar.Header{Name: "zeros", Size: 8 << 30}), mib, 8*gib)
		},
		[]gate.GapKind{gate.GapLimit}, 64, 10, true,
	},
	{
		"zstd of zeros", "4 GiB", func(t testing.TB) []byte { return bytes.Repeat(zstded(t, bytes.Repeat(mib, 64)), 64) },
		[]gate.GapKind{gate.GapLimit}, 64, 10, true,
	},
	{"zstd that asks for 256 MiB of window", "1 MiB", wideWindow, []gate.GapKind{gate.GapUnreadableLayer}, 64, 5, false},
	{
		"tar of ten million entries", "5 GiB", func(t testing.TB) []byte { return gzipBomb(t, nil, emptyEntries(t), 10_000_000/2048) },
		[]gate.GapKind{gate.GapLimit}, 96, 40, true,
	},
	{
		"two thousand names of 1 MiB", "2 GiB", func(t testing.TB) []byte { return gzipBomb(t, nil, longName(t), 2000) },
		[]gate.GapKind{gate.GapLimit}, 160, 30, true,
	},
	{
		"twenty thousand files behind 200 links of 4 KiB", "10 MiB",
		func(t testing.TB) []byte {
			links, file := ladder(t)
			return gzipped(t, append(links, bytes.Repeat(file, 10_000)...))
		},
		[]gate.GapKind{gate.GapLimit, gate.GapUnresolvedLink}, 96, 45, true,
	},
	{
		"sparse executable", "7 GiB", func(t testing.TB) []byte { return sparseFile(t, "huge", elfMagic, 7<<30) },
		nil, 64, 5, true,
	},
	{
		"a thousand sparse executables", "250 GiB",
		func(t testing.TB) []byte {
			return bytes.Repeat(sparseFile(t, "usr/bin/e", elfMagic, maxFileBytes), 1000)
		},
		[]gate.GapKind{gate.GapLimit}, 400, 40, true,
	},
	{
		"sparse dpkg database", "7 GiB", func(t testing.TB) []byte { return sparseFile(t, "var/lib/dpkg/status", "Package: a\n", 7<<30) },
		[]gate.GapKind{gate.GapLimit}, 64, 5, false,
	},
	{
		"jar in a jar", "3 GiB",
		func(t testing.TB) []byte {
			return tarball(t, regular("a.jar", zipBomb(t, "b.jar", deflated(t, nil, mib, 3*gib), 3<<30)))
		},
		[]gate.GapKind{gate.GapLimit}, 512, 20, false,
	},
	{
		"jar in a jar that lies about it", "3 GiB",
		func(t testing.TB) []byte {
			return tarball(t, regular("a.jar", zipBomb(t, "b.jar", deflated(t, nil, mib, 3*gib), 1000)))
		},
		[]gate.GapKind{gate.GapUnreadablePackage}, 512, 20, false,
	},
	{"jar of three hundred jars", "3 GiB", jarOfJars, []gate.GapKind{gate.GapLimit}, 512, 30, false},
	{
		"wheel of endless requirements", "6 GiB", greedyWheel,
		[]gate.GapKind{gate.GapLimit}, 2300, 60, true,
	},
	{
		"dpkg database of ten million packages", "230 MiB",
		stanzas,
		[]gate.GapKind{gate.GapLimit}, 2300, 60, true,
	},
	{
		"sqlite database of noise", "200 MiB",
		func(t testing.TB) []byte {
			return gzipped(t, tarball(t, regular("var/lib/rpm/rpmdb.sqlite", sqliteMagic+"\x10\x00\x01\x01\x00\x40\x20\x20"+string(noise(200<<20)))))
		},
		[]gate.GapKind{gate.GapUnreadablePackage}, 400, 10, true,
	},
	{
		"ndb database of noise", "200 MiB",
		func(t testing.TB) []byte {
			header := "RpmP\x00\x00\x00\x00\x01\x00\x00\x00\x00\x08\x00\x00" + strings.Repeat("\x00", 16)
			return gzipped(t, tarball(t, regular("var/lib/rpm/Packages.db", header+string(noise(200<<20)))))
		},
		[]gate.GapKind{gate.GapUnreadablePackage}, 400, 10, true,
	},
	{
		"ndb package of 4 GiB", "4 GiB", func(t testing.TB) []byte { return tarball(t, regular("var/lib/rpm/Packages.db", ndbGreed())) },
		[]gate.GapKind{gate.GapUnreadablePackage}, 64, 5, false,
	},
	{
		"Berkeley DB package that never ends", "endless",
		func(t testing.TB) []byte { return tarball(t, regular("var/lib/rpm/Packages", berkeleyRing())) },
		[]gate.GapKind{gate.GapUnreadablePackage}, 64, 5, false,
	},
}

// jarOfJars returns an archive of archives with ten mebibytes of nothing in front, each of which is below every limit.
func jarOfJars(t testing.TB) []byte {
	t.Helper()
	inner := slices.Concat(random(36<<10), bytes.Repeat(mib, 10), []byte(builtJar(t, "org.tide", "flood", "1.0")))
	packed := deflated(t, inner, nil, 0)
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := range 300 {
		header := &zip.FileHeader{Name: fmt.Sprintf("lib/flood%d.jar", i), Method: zip.Deflate, CompressedSize64: uint64(len(packed)), UncompressedSize64: uint64(len(inner))}
		f, err := w.CreateRaw(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(packed); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return tarball(t, regular("flood.jar", b.String()))
}

// greedyWheel returns a wheel with so many requirements that what reads it needs all there is.
func greedyWheel(t testing.TB) []byte {
	t.Helper()
	requirement := bytes.Repeat([]byte("Requires-Dist: tidewaiter-tidewaiter-tidewaiter\n"), 1<<15)
	return tarball(t, regular("a.whl", zipBomb(t, "a.dist-info/METADATA", deflated(t, []byte("Name: a\nVersion: 1\n"), requirement, 4*gib), 4<<30)))
}

// stanzas returns a layer with a dpkg database, nearly as large as is read, of one package over and over.
func stanzas(t testing.TB) []byte {
	t.Helper()
	const stanza = "Package: a\nVersion: 1\n\n"
	return gzipped(t, tarball(t, regular("var/lib/dpkg/status", strings.Repeat(stanza, 230<<20/len(stanza)))))
}

// TestBombs has each bomb read by a process as in production, and bounds what that took. With -v it prints the table of docs/scanning.md.
func TestBombs(t *testing.T) {
	if raced() {
		t.Skip("what a bomb takes is measured without the race detector, which takes several times that")
	}
	l := startLayers(t, Options{Workers: 1})
	table := "\n| bomb | on disk | unpacked | gap | memory | processor |\n|---|---|---|---|---|---|\n"
	for _, tt := range bombs {
		t.Run(tt.name, func(t *testing.T) {
			if tt.heavy && testing.Short() {
				t.Skip("it unpacks some gigabytes")
			}
			forgetPeak(t)
			c, err := spawn(l.settings) // before there is the bomb, whose memory would count as the process's own
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.end() })
			layer := tt.layer(t)
			r, enc, gap, err := begun(t.Context(), bytes.NewReader(layer))
			if err != nil || gap != nil {
				t.Fatal(err, gap)
			}
			a, err := c.ask(t.Context(), order{encoding: enc}, r)
			if err != nil {
				t.Fatal(err)
			}
			got, gap := a.inventory(oci.Digest("sha256:bomb"))
			if gap != nil {
				got.Gaps = []gate.Gap{*gap}
			}
			kinds := gapKinds(got.Gaps)
			slices.Sort(kinds)
			kinds = slices.Compact(kinds)
			unwanted := func(kind gate.GapKind) bool { return !slices.Contains(tt.want, kind) }
			if (len(kinds) == 0) != (tt.want == nil) || slices.ContainsFunc(kinds, unwanted) {
				t.Errorf("gaps of kind %q, want %q", kinds, tt.want)
			}
			state, _ := a.death()
			usage := state.SysUsage().(*syscall.Rusage)
			peakMiB, seconds := usage.Maxrss>>10, (state.UserTime() + state.SystemTime()).Seconds()
			if peakMiB > tt.mostMiB || seconds > float64(tt.mostSeconds) {
				t.Errorf("it took %d MiB and %.1f s, want at most %d MiB and %d s", peakMiB, seconds, tt.mostMiB, tt.mostSeconds)
			}
			why := "none"
			if len(kinds) > 0 {
				why = fmt.Sprintf("`%s`", kinds[0])
			}
			table += fmt.Sprintf("| %s | %s | %s | %s | %d MiB | %.1f s |\n", tt.name, onDisk(len(layer)), tt.unpacked, why, peakMiB, seconds)
		})
	}
	t.Log(table)
}

// onDisk says how large n bytes are.
func onDisk(n int) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", (n+1<<10-1)>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// forgetPeak makes the most memory this process ever had what it has now, for a process it starts begins with that (execve(2) keeps it).
func forgetPeak(t *testing.T) {
	t.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Logf("memory is measured with what this process had: %v", err)
	}
}

// raced reports whether the race detector is at work.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
