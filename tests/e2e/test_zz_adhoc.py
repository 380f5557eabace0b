import pytest, sys
from conftest import *
from conftest import MODELS
@pytest.mark.parametrize("generation",["1.9","1.16"])
@pytest.mark.parametrize("mode",["advanced-chat","workflow"])
@pytest.mark.parametrize("word",["TOOL","AGENTNODE", "THINK AGENTNODE", "AGENTNODE PARTIAL","AGENTNODE EXTRAS CITE TTS","AGENTNODE STOPPED","AGENTNODE FILE TOOL","PAUSE TOOL AGENTNODE","AGENTNODE JSONOUT","AGENTNODE OUTPUTS_ONLY", "AGENTNODE LONG 9 ERROR_MID"])
async def test_x(serve, mode, generation, word):
    served = await serve(dify={"generation": generation})
    q=f"{word} ECHO:noon"
    r = await served.ask(q, MODELS[mode]); b=r.json()
    chunks = await served.stream(q, MODELS[mode])
    print(mode, generation, word, "|", str(b.get("choices") or b)[:900], "|", repr(text_of(chunks)), finish_of(chunks), b.get("usage"))
    m=b["choices"][0]["message"] if "choices" in b else None
    if m and m.get("tool_calls") and word in ("TOOL","AGENTNODE"):
        call=m["tool_calls"][0]; n=len(served.runs())
        msgs=[{"role":"user","content":q},{"role":"assistant","content":m["content"],"tool_calls":[call]},{"role":"tool","tool_call_id":call["id"],"content":"unknown tool"}]
        r=await served.http.post("/v1/chat/completions",json={"model":MODELS[mode],"messages":msgs})
        print("AGAIN", len(served.runs())-n, r.text[:300])
        msgs=[{"role":"user","content":q},{"role":"assistant","content":m["content"]},{"role":"user","content":"ECHO:on"}]
        r=await served.http.post("/v1/chat/completions",json={"model":MODELS[mode],"messages":msgs})
        print("ON", served.last_run.get("conversation_id") in served.dify.conversations)
