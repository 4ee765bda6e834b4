set -e
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
W=.venv/bin/whorl
.venv/bin/python - <<'P'
import glob
from whorl.comparison import load_trial
f=glob.glob("STUDY/trials/rope-s0*")[0]
m=load_trial(f); m.save_pretrained("WORK/language")
from transformers import AutoTokenizer
AutoTokenizer.from_pretrained("STUDY/tokenizer").save_pretrained("WORK/language")
P
$W compare rope:base=100 rope:base=500 rope rope:base=1e6 --model WORK/language --tokenizer WORK/language --train-length 256 --tokens 1048576 --batch-size 16 --lengths 0.5x,1x,2x,4x,8x --windows 48 --learning-rate 1e-3 --out WORK/l2
$W compare rope --task recall --tokens 7372800 --lengths 1x,2x --windows 48 --out WORK/recall
.venv/bin/python - <<'P'
import glob
from whorl.comparison import load_trial
f=glob.glob("WORK/recall/trials/rope-s0*")[0]
m=load_trial(f); m.save_pretrained("WORK/recallmodel")
P
$W compare rope:base=100 rope:base=500 rope rope:base=1e6 --task recall --model WORK/recallmodel --train-length 256 --tokens 2097152 --batch-size 16 --lengths 0.5x,1x,2x,4x,8x --windows 64 --learning-rate 1e-3 --out WORK/r2
