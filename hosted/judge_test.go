package hosted

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

func TestWhatIsJudgedAfterAPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStorage(), &clock{})
		names := map[oci.Digest]string{}
		named := func(name string, content oci.Content) oci.Content {
			names[content.Digest] = name
			return content
		}
		image, child := named("image", w.image(t, "image")), named("child", w.image(t, "child"))
		idx := named("index", index(t, child.Descriptor()))
		sig := named("signatures", w.signatures(t, "a"))
		list := named("list", index(t, image.Descriptor()))
		for _, step := range []struct {
			name string
			do   func()
			want []string
		}{
			{"by digest, nothing", func() { w.push(t, "", image); w.push(t, "", child) }, nil},
			{"about what is not here, nothing", func() { w.push(t, "", w.referrer(t, digestOf(1), "a")) }, nil},
			{"by tag, once", func() { w.push(t, "latest", image); w.push(t, "again", image) }, []string{"image"}},
			{"an index and its children", func() { w.push(t, "", idx) }, []string{"child", "index"}},
			{"a referrer, its subject", func() { w.push(t, "", w.referrer(t, image.Digest, "a")) }, []string{"image"}},
			{"a signature of an index, also its children", func() { w.push(t, "", w.referrer(t, idx.Digest, "a")) }, []string{"child", "index"}},
			{"signatures under a tag", func() { w.push(t, evidenceTags(image.Digest)[1], sig) }, []string{"image", "signatures"}},
			{"a list of referrers", func() { w.push(t, evidenceTags(child.Digest)[0], list) }, []string{"child", "list"}},
			{"a signature that has gone", func() { _ = w.DeleteTag(t.Context(), web, evidenceTags(image.Digest)[1], "user:ci") }, []string{"image"}},
		} {
			step.do()
			<-time.After(settling - 1)
			synctest.Wait()
			if n := len(w.judged); n != 0 {
				t.Errorf("%s: %d are judged at once", step.name, n)
			}
			<-time.After(1)
			synctest.Wait()
			var got []string
			for len(w.judged) > 0 {
				got = append(got, names[(<-w.judged).Digest])
			}
			slices.Sort(got)
			if diff := cmp.Diff(got, step.want); diff != "" {
				t.Errorf("%s (-got +want):\n%s", step.name, diff)
			}
		}
		w.push(t, "last", image)
		w.Close()
		<-time.After(2 * settling)
		if n := len(w.judged); n != 0 {
			t.Errorf("%d are judged after Close", n)
		}
	})
}
