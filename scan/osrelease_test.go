package scan

import (
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

func TestParseOSRelease(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       gate.OS
	}{
		{
			"Debian", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n",
			gate.OS{ID: "debian", Version: "12", Name: "Debian GNU/Linux 12 (bookworm)"},
		},
		{"Alpine", "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.20.1\n", gate.OS{ID: "alpine", Version: "3.20.1", Name: "Alpine Linux"}},
		{"rolling", "ID='arch'\n", gate.OS{ID: "arch"}},
		{"no ID means linux", "NAME=X\n", gate.OS{ID: "linux", Name: "X"}},
		{"empty", "", gate.OS{ID: "linux"}},
		{"the last assignment counts", "ID=a\nID=b\n", gate.OS{ID: "b"}},
		{"comments and nonsense", "# ID=a\nID\nexport ID=x\n  ID=b\r\n", gate.OS{ID: "b"}},
		{"quotes of the shell", `ID="a\"b\$\c"` + "\n" + `NAME='a\"b'` + "\n" + `VERSION_ID=a\ b"c"'d'`, gate.OS{ID: `a"b$\c`, Name: `a\"b`, Version: "a bcd"}},
		{"not text", "ID=\xff\n", gate.OS{ID: "\uFFFD"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parseOSRelease([]byte(tt.text))); diff != "" {
				t.Errorf("OS (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseOSRelease(f *testing.F) {
	f.Add([]byte("ID=debian\nVERSION_ID=\"12\"\n"))
	f.Add([]byte("ID='a\\'\"\\\"\\"))
	f.Fuzz(func(t *testing.T, text []byte) {
		os := parseOSRelease(text)
		if os.ID == "" {
			t.Error("no ID")
		}
		for _, s := range []string{os.ID, os.Version, os.Name} {
			if !utf8.ValidString(s) || len(s) > 3*len(text)+len("linux") {
				t.Errorf("%q is not text, or longer than what it was read from", s)
			}
		}
	})
}
