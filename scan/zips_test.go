package scan

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// zipEnd returns where the end of an archive without a comment begins, and where its directory does.
func zipEnd(archive string) (end, directory int) {
	end = len(archive) - zipEndBytes
	return end, int(binary.LittleEndian.Uint32([]byte(archive)[end+16:]))
}

// commented returns archive with a comment.
func commented(archive, comment string) string {
	b := []byte(archive)
	binary.LittleEndian.PutUint16(b[len(b)-2:], uint16(len(comment)))
	return string(b) + comment
}

// TestArchivesThatSomeReadOtherwise has archives in which Java finds a package, and others nothing.
func TestArchivesThatSomeReadOtherwise(t *testing.T) {
	aName, a := pomProperties("org.example", "a", "1.0")
	stated := []string{aName, a, "node_modules/a/package.json", `{"name":"a","version":"1.0"}`, "EGG-INFO/PKG-INFO", "Name: a\nVersion: 1.0\n"}
	good := zipped(t, stated...)
	end, directory := zipEnd(good)
	none := zipEndMagic + strings.Repeat("\x00", zipEndBytes-len(zipEndMagic))
	decoy := zipped(t, "readme", "", "readme", "", "readme", "")
	decoyEnd, decoyDirectory := zipEnd(decoy)
	fewer := []byte(zipped(t, append([]string{"readme", ""}, stated...)...))
	at, second := zipEnd(string(fewer))
	second += bytes.Index(fewer[second+4:], []byte(zipEntryMagic)) + 4
	binary.LittleEndian.PutUint16(fewer[at+8:], 1)
	binary.LittleEndian.PutUint16(fewer[at+10:], 1)
	binary.LittleEndian.PutUint32(fewer[second+24:], 1<<32-1) // of a size that stands nowhere
	for name, archive := range map[string]string{
		"another end in its comment":                 commented(good, none+"x"),
		"another directory where its offset says":    strings.Repeat(" ", directory) + decoy[decoyDirectory:decoyEnd] + strings.Repeat(" ", 100) + good,
		"more files than it says it has":             string(fewer),
		"an end in wider numbers that leads nowhere": good[:end] + zipLocatorMagic + strings.Repeat("\x00", zipLocatorBytes-4) + good[end:],
	} {
		for _, file := range []string{"app.jar", ".yarn/cache/a.zip", "a.egg"} {
			t.Run(name+", "+file, func(t *testing.T) {
				got := readTar(t, regular(file, archive))
				found := len(got.Files) == 1 && len(got.Files[0].Packages) == 1
				if kinds := gapKinds(got.Gaps); !found && !cmp.Equal(kinds, []gate.GapKind{gate.GapUnreadablePackage}) {
					t.Errorf("files %v, gaps %v, want the package or a gap", got.Files, got.Gaps)
				}
			})
		}
	}
}

// TestArchivesAsTheyAre has archives in all the ways they are really made.
func TestArchivesAsTheyAre(t *testing.T) {
	aName, a := pomProperties("org.example", "a", "1.0")
	good := zipped(t, aName, a)
	many := []string{aName, a}
	for i := range 1 << 16 {
		many = append(many, fmt.Sprint(i), "")
	}
	for name, archive := range map[string]string{
		"after a script that starts it":             "#!/bin/sh\nexec java -jar $0\n" + good,
		"with a comment":                            commented(good, "made by hand"),
		"before a line feed":                        good + "\n",
		"with more files than narrow numbers count": zipped(t, many...),
		"after the same, and a script":              "#!/bin/sh\n" + zipped(t, many...),
		"in another, stored, after a script":        "#!/bin/sh\n" + storedZip(t, "BOOT-INF/lib/a.jar", good),
	} {
		t.Run(name, func(t *testing.T) {
			got := readTar(t, regular("app.jar", archive))
			want := []gate.FileInventory{{Path: "app.jar", Packages: []gate.Package{maven("org.example:a", "1.0")}}}
			if diff := cmp.Diff(want, got.Files); diff != "" || got.Gaps != nil {
				t.Errorf("gaps %v, files (-want +got):\n%s", got.Gaps, diff)
			}
		})
	}
}

func FuzzZipProper(f *testing.F) {
	good := zipped(f, "a", "b")
	f.Add([]byte(good))
	f.Add([]byte("#!/bin/sh\n" + commented(good, "c")))
	f.Add([]byte(good[:len(good)-zipEndBytes] + zipWideEndMagic + strings.Repeat("\x00", 52) + zipLocatorMagic + strings.Repeat("\x00", 16) + good[len(good)-zipEndBytes:]))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, proper, err := openZip(data)
		if err == nil && (!bytes.HasSuffix(data, proper) || files == nil) {
			t.Errorf("%d bytes of %d, which are not its end", len(proper), len(data))
		}
	})
}
