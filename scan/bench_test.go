//go:build unix

package scan

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// maxTreeBytes bounds the trees benchmarks read, so that a run takes minutes.
const maxTreeBytes = 256 << 20

// trees are real ones, found on this machine or made when they are first asked for: by name, the directories of each.
var trees = []struct {
	name string
	dirs func(tb testing.TB) []string
}{
	{"debian", func(tb testing.TB) []string { return []string{minbase(tb)} }},
	{"node", func(tb testing.TB) []string { return outputs(tb, "npm", "root", "-g") }},
	{"go", func(tb testing.TB) []string {
		root := outputs(tb, "go", "env", "GOROOT")[0]
		return []string{filepath.Join(root, "bin"), filepath.Join(root, "pkg", "tool")}
	}},
	{"python", func(tb testing.TB) []string {
		return outputs(tb, "python3", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))")
	}},
	{"jars", func(tb testing.TB) []string { return []string{jars(tb)} }},
	{"small-jars", func(tb testing.TB) []string { // Debian's, of 70 KiB on average
		if installed, _ := filepath.Glob("/usr/share/java/*.jar"); len(installed) == 0 {
			tb.Skip("no Java archives in /usr/share/java")
		}
		return []string{"/usr/share/java"}
	}},
}

// outputs returns the lines a program prints. Without it there is no tree.
func outputs(tb testing.TB, program string, args ...string) []string {
	tb.Helper()
	if _, err := exec.LookPath(program); err != nil {
		tb.Skip(err)
	}
	out, err := exec.CommandContext(tb.Context(), program, args...).Output()
	if err != nil {
		tb.Skip(err)
	}
	return strings.Fields(string(out))
}

// madeTree returns a directory that make fills, once for all runs.
func madeTree(tb testing.TB, name string, fill func(dir string) error) string {
	tb.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Skip(err)
	}
	dir := filepath.Join(cache, "tidewaiter-bench", name)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		tb.Fatal(err)
	}
	unfinished := dir + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		tb.Fatal(err)
	}
	if err := fill(unfinished); err != nil {
		tb.Skipf("making %s: %v", name, err)
	}
	if err := os.Rename(unfinished, dir); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// minbase returns a Debian as small as it can be installed, by debootstrap, as root.
func minbase(tb testing.TB) string {
	tb.Helper()
	return madeTree(tb, "minbase", func(dir string) error {
		out, err := exec.CommandContext(tb.Context(), "debootstrap", "--variant=minbase", "bookworm", dir).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out[max(0, len(out)-300):])
		}
		return nil
	})
}

// jars returns a directory of archives as Java applications carry them: what this machine has of classes, in a hundred libraries.
func jars(tb testing.TB) string {
	tb.Helper()
	return madeTree(tb, "jars", func(dir string) error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		tool, err := os.ReadFile(outputs(tb, "go", "env", "GOROOT")[0] + "/bin/go") // its code packs about as classes do
		if err != nil {
			return err
		}
		for i := range 100 {
			name, pom := pomProperties("org.tide", fmt.Sprintf("waiter-%d", i), "1.0."+fmt.Sprint(i))
			contents := []string{name, pom, "META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n"}
			for j := range 100 {
				at := (i*100 + j) * 1500 % (len(tool) - 4000)
				contents = append(contents, fmt.Sprintf("org/tide/C%d.class", j), string(tool[at:at+4000]))
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("waiter-%d.jar", i)), []byte(zipped(tb, contents...)), 0o600); err != nil {
				return err
			}
		}
		return nil
	})
}

// treeLayer returns dirs as a gzipped layer.
func treeLayer(tb testing.TB, dirs []string) []byte {
	tb.Helper()
	var layer bytes.Buffer
	packed := gzip.NewWriter(&layer)
	w := tar.NewWriter(packed)
	total := int64(0)
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if total > maxTreeBytes || !info.Mode().IsRegular() && !info.IsDir() && info.Mode()&fs.ModeSymlink == 0 {
				return nil
			}
			target, _ := os.Readlink(p) // none for what is no link
			header, err := tar.FileInfoHeader(info, target)
			if err != nil {
				return err
			}
			if header.Name, err = filepath.Rel(dir, p); err != nil {
				return err
			}
			var data []byte
			if info.Mode().IsRegular() {
				if data, err = os.ReadFile(p); err != nil {
					return err
				}
				header.Size = int64(len(data))
			}
			total += header.Size + 512
			if err := w.WriteHeader(header); err != nil {
				return err
			}
			_, err = w.Write(data)
			return err
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := packed.Close(); err != nil {
		tb.Fatal(err)
	}
	return layer.Bytes()
}

// decompressOnly decompresses layer, writes the tar stream to w, and returns how many bytes it was.
func decompressOnly(tb testing.TB, layer io.Reader, w io.Writer) int64 {
	tb.Helper()
	r, err := decoder(layer, encodingGzip)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := io.Copy(w, r)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// cost is the least time something took, by the clock and of all processors.
type cost struct{ wall, processor time.Duration }

// measure has do done, and lowers c to what it took, with the child it leaves to end, if it does.
func (c *cost) measure(tb testing.TB, do func(), leavesChild bool) {
	tb.Helper()
	start, ours, theirs := time.Now(), processorTime(tb, syscall.RUSAGE_SELF), processorTime(tb, syscall.RUSAGE_CHILDREN)
	do()
	wall, processor := time.Since(start), processorTime(tb, syscall.RUSAGE_SELF)-ours
	for leavesChild && processorTime(tb, syscall.RUSAGE_CHILDREN) == theirs {
		runtime.Gosched()
	}
	processor += processorTime(tb, syscall.RUSAGE_CHILDREN) - theirs
	if c.wall == 0 || wall < c.wall {
		c.wall = wall
	}
	if c.processor == 0 || processor < c.processor {
		c.processor = processor
	}
}

// BenchmarkDecompressOnly is the floor: what no reader of a layer can go below.
func BenchmarkDecompressOnly(b *testing.B) {
	for _, tree := range trees {
		b.Run(tree.name, func(b *testing.B) {
			layer := treeLayer(b, tree.dirs(b))
			var n int64
			for b.Loop() {
				n = decompressOnly(b, bytes.NewReader(layer), io.Discard)
			}
			b.SetBytes(n)
		})
	}
}

// BenchmarkInventoryLayer is the whole way: the digest of the layer, child, pipe, decompression, the digest of the tar stream, walk,
// readers, answer. Each time, right before, the layer is only decompressed, once without and once with both digests, in one thread.
// The ratios are of the fastest of each: x-decompress and x-digests by the clock, x-cpu and x-digests-cpu of processor time over all
// processes. Decompression has a processor for itself where there are two to be had; where there are not, the latter are the ones that tell.
func BenchmarkInventoryLayer(b *testing.B) {
	l, err := NewLayers(Options{Workers: 2})
	needsSandbox(b, err)
	b.Cleanup(func() { _ = l.Close() })
	for _, tree := range trees {
		b.Run(tree.name, func(b *testing.B) {
			layer := treeLayer(b, tree.dirs(b))
			var floor, digested, whole cost
			var inv gate.LayerInventory
			for b.Loop() {
				b.StopTimer()
				floor.measure(b, func() { decompressOnly(b, bytes.NewReader(layer), io.Discard) }, false)
				digested.measure(b, func() { decompressOnly(b, io.TeeReader(bytes.NewReader(layer), sha256.New()), sha256.New()) }, false)
				b.StartTimer()
				whole.measure(b, func() {
					var err error
					inv, err = l.ReadLayer(b.Context(), descriptor(typeGzip, layer), io.TeeReader(bytes.NewReader(layer), sha256.New()), gate.Look{})
					if err != nil {
						b.Fatal(err)
					}
				}, true)
			}
			packages := 0
			for _, f := range inv.Files {
				packages += len(f.Packages)
			}
			stored, err := json.Marshal(inv)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(inv.UncompressedBytes)
			b.ReportMetric(whole.wall.Seconds()/floor.wall.Seconds(), "x-decompress")
			b.ReportMetric(whole.wall.Seconds()/digested.wall.Seconds(), "x-digests")
			b.ReportMetric(whole.processor.Seconds()/floor.processor.Seconds(), "x-cpu")
			b.ReportMetric(whole.processor.Seconds()/digested.processor.Seconds(), "x-digests-cpu")
			b.ReportMetric(float64(packages), "packages")
			b.ReportMetric(float64(len(inv.Gaps)), "gaps")
			b.ReportMetric(float64(len(stored))/float64(max(1, packages)), "B/package")
		})
	}
}

// BenchmarkSmallLayer is what reading a layer costs that has next to nothing in it.
func BenchmarkSmallLayer(b *testing.B) {
	layer := gzipped(b, tarball(b, regular("etc/hostname", "tide\n")))
	l, err := NewLayers(Options{Workers: 2})
	needsSandbox(b, err)
	b.Cleanup(func() { _ = l.Close() })
	all := func() time.Duration {
		return processorTime(b, syscall.RUSAGE_SELF) + processorTime(b, syscall.RUSAGE_CHILDREN)
	}
	start := all()
	defer func() { b.ReportMetric(float64((all()-start).Microseconds())/float64(b.N)/1000, "cpu-ms/op") }()
	for b.Loop() {
		if _, err := l.ReadLayer(b.Context(), descriptor(typeGzip, layer), bytes.NewReader(layer), gate.Look{}); err != nil {
			b.Fatal(err)
		}
	}
}

// manyAdvisories returns a database of a hundred thousand rows, and the inventory of an image of 800 packages, one in twenty of which
// has something.
func manyAdvisories(b *testing.B) (*Advisories, gate.Inventory) {
	b.Helper()
	var rows []ocitest.Advisory
	var layers []gate.LayerInventory
	inv := gate.LayerInventory{OSRelease: map[string]gate.OS{"etc/os-release": {ID: "debian", Version: "12"}}}
	for i := range 20_000 {
		name := fmt.Sprintf("p%d", i)
		for j := range 5 {
			rows = append(rows, ocitest.Advisory{Bucket: "debian 12", Package: name, ID: fmt.Sprintf("CVE-%d", i*5+j), Source: "debian", Fixed: fmt.Sprintf("%d.%d-1", i%20, j)})
		}
		if i%25 == 0 {
			inv.Files = append(inv.Files, gate.FileInventory{
				Path: fmt.Sprintf("var/lib/dpkg/status.d/%s", name), Packages: []gate.Package{{Type: "deb", Name: name, Version: fmt.Sprintf("%d.1-1", i%20+i%2), Arch: "amd64"}},
			})
		}
	}
	layers = append(layers, inv)
	return openTestAdvisories(b, rows, nil), gate.Merge(layers)
}

// BenchmarkMatch matches an image of 800 packages.
func BenchmarkMatch(b *testing.B) {
	a, inv := manyAdvisories(b)
	var findings []gate.Finding
	for b.Loop() {
		var err error
		if findings, _, err = a.Match(b.Context(), a.Snapshot(), inv); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(inv.Packages)), "packages")
	b.ReportMetric(float64(len(findings)), "findings")
}

// BenchmarkVerdictKnownLayers is what is left of this package in a verdict on an image all of whose layers are known: merging six
// inventories and matching.
func BenchmarkVerdictKnownLayers(b *testing.B) {
	a, inv := manyAdvisories(b)
	var layers []gate.LayerInventory
	for i := range 6 {
		layer := gate.LayerInventory{OSRelease: map[string]gate.OS{"etc/os-release": inv.OS}, Whiteouts: []string{fmt.Sprintf("tmp/%d", i)}}
		for j, p := range inv.Packages {
			if j%6 == i {
				layer.Files = append(layer.Files, gate.FileInventory{Path: p.Path, Packages: []gate.Package{p.Package}})
			}
		}
		layers = append(layers, layer)
	}
	for b.Loop() {
		if _, _, err := a.Match(b.Context(), a.Snapshot(), gate.Merge(layers)); err != nil {
			b.Fatal(err)
		}
	}
}

// processorTime returns the processor time of this process, or of the children it has waited for.
func processorTime(tb testing.TB, who int) time.Duration {
	tb.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(who, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
